import anyio, httpx
from functools import partial
from .base import TransportFailure
from .override import meant
from .._protocol.response import Response
def check_client(given, *, sync): pass
class SelectedTransport:
    def __init__(self, config, given, *, sync): self.c, self.g, self.s = config, given, sync; self.own=None
    async def post(self, r):
        config, given = meant(self.c, self.g, "Client" if self.s else "AsyncClient")
        h={"Authorization": "Bearer "+config.secret.reveal(), "Content-Type":"application/json", **(config.default_headers or {})}
        try:
            if isinstance(given, httpx.Client):
                x = await anyio.to_thread.run_sync(partial(given.post, config.endpoint, content=r.body, headers=h, timeout=r.timeout), abandon_on_cancel=True)
            else:
                if given is None:
                    given = self.own = self.own or httpx.AsyncClient(limits=httpx.Limits(max_connections=None))
                x = await given.post(config.endpoint, content=r.body, headers=h, timeout=r.timeout)
        except httpx.TimeoutException: raise TransportFailure("timeout","t")
        except httpx.RequestError as e: raise TransportFailure("connection", repr(e))
        return Response(x.status_code, dict(x.headers), x.content)
    async def aclose(self):
        if self.own: await self.own.aclose(); self.own=None
