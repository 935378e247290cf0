"""Event loops other than asyncio's, unusual uses of asyncio, and detectors of blocking calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_uvloop(run: Callable[..., str]) -> None:
    """The async client works on uvloop, in one event loop after another."""
    pytest.importorskip("uvloop")
    printed = run(
        """
        import uvloop

        client = AsyncEmbeddingClient(CONFIG)

        async def main():
            async with client:
                print(len((await client.embed(TEXTS)).embeddings))

        uvloop.run(main())
        uvloop.run(client.embed(TEXTS))
        """,
        "-W",
        "error",
    )
    assert printed == "37\n"


def test_debug_mode(run: Callable[..., str]) -> None:
    """Both clients work in asyncio's debug mode, which unittest's async test cases also use."""
    printed = run(
        """
        import io, logging, unittest

        # Not the warnings of slow callbacks, which depend on the load of the machine.
        logging.getLogger("asyncio").setLevel("ERROR")

        class Test(unittest.IsolatedAsyncioTestCase):
            async def test(self):
                async with AsyncEmbeddingClient(CONFIG) as client:
                    print(len((await client.embed(TEXTS)).embeddings))

        with EmbeddingClient(CONFIG) as client:
            print(len(client.embed(TEXTS).embeddings))
        assert unittest.TextTestRunner(io.StringIO()).run(Test("test")).wasSuccessful()
        """,
        "-X",
        "dev",
        "-W",
        "error",
    )
    assert printed == "37\n37\n"


def test_policy_of_uvloop(run: Callable[..., str]) -> None:
    """Sync calls work with uvloop's event loop policy, including inside one of its loops."""
    pytest.importorskip("uvloop")
    printed = run(
        """
        import asyncio, warnings
        import uvloop

        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        with EmbeddingClient(CONFIG) as client:
            print(len(client.embed(TEXTS).embeddings))

            async def main():
                print(len(client.embed(TEXTS).embeddings))

            asyncio.run(main())
        """
    )
    assert printed == "37\n37\n"


def test_nest_asyncio(run: Callable[..., str]) -> None:
    """Calls work in an event loop that nest_asyncio has made re-entrant, as in notebooks."""
    pytest.importorskip("nest_asyncio")
    printed = run(
        """
        import asyncio, warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        import nest_asyncio

        nest_asyncio.apply()

        async def main():
            with EmbeddingClient(CONFIG) as client:
                print(len(client.embed(TEXTS).embeddings))
            async with AsyncEmbeddingClient(CONFIG) as client:
                print(len(asyncio.get_running_loop().run_until_complete(client.embed(TEXTS)).embeddings))
                print(len((await client.embed(TEXTS)).embeddings))

        asyncio.run(main())
        """
    )
    assert printed == "37\n37\n37\n"


def test_nest_asyncio_without_closing(run: Callable[..., str]) -> None:
    """Event loops patched by nest_asyncio end without a traceback, even if clients are never closed."""
    pytest.importorskip("nest_asyncio")
    printed = run(
        """
        import asyncio, gc, sys, warnings

        warnings.simplefilter("ignore")
        import nest_asyncio

        nest_asyncio.apply()
        sys.unraisablehook = lambda unraisable: print("ignored:", unraisable.exc_value)

        async def embed(client):
            return len((await client.embed(TEXTS)).embeddings)

        def embed_with_a_new_client():
            return asyncio.run(embed(AsyncEmbeddingClient(CONFIG)))

        async def embed_in_a_nested_loop():
            return embed_with_a_new_client()

        kept = AsyncEmbeddingClient(CONFIG)
        print(asyncio.run(embed(kept)), embed_with_a_new_client(), asyncio.run(embed_in_a_nested_loop()))
        gc.collect()
        print(asyncio.run(embed(kept)))
        del kept
        gc.collect()
        """
    )
    assert printed == "37 37 37\n37\n"


def test_trio_as_a_guest(run: Callable[..., str]) -> None:
    """The async client works on Trio in guest mode, inside asyncio's event loop."""
    printed = run(
        """
        import asyncio
        import trio

        async def embed():
            async with AsyncEmbeddingClient(CONFIG) as client:
                print(len((await client.embed(TEXTS)).embeddings))
                async with client.embed_iter(TEXTS) as rows:
                    return len([row async for row in rows])

        async def main():
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            trio.lowlevel.start_guest_run(
                embed,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=ended.set_result,
            )
            print((await ended).unwrap())

        asyncio.run(main())
        """
    )
    assert printed == "37\n37\n"


def test_loop_closed_without_clean_up(run: Callable[..., str]) -> None:
    """A loop that is closed with open connections blocks neither the next loop nor the exit."""
    printed = run(
        """
        import asyncio, gc

        client = AsyncEmbeddingClient(CONFIG)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            print(len(loop.run_until_complete(client.embed(TEXTS)).embeddings))
            loop.close()
        gc.collect()
        with EmbeddingClient(CONFIG) as other:
            print(len(other.embed(TEXTS).embeddings))
        """
    )
    assert printed == "37\n" * 4


def test_blockbuster(run: Callable[..., str], tmp_path: Path) -> None:
    """An async client with a cache never blocks its event loop, even if it is created there."""
    pytest.importorskip("blockbuster")
    printed = run(
        f"""
        import asyncio, os
        from blockbuster import blockbuster_ctx

        os.chdir({str(tmp_path)!r})

        async def main():
            with blockbuster_ctx():
                async with AsyncEmbeddingClient(CONFIG, cache="relative.db") as client:
                    for _ in range(2):
                        print((await client.embed(TEXTS)).cached)

        asyncio.run(main())
        print(os.path.exists("relative.db"))
        """
    )
    assert printed == "0\n37\nTrue\n"


def test_frozen_time(run: Callable[..., str], emulator: Emulator) -> None:
    """Retries work while a test has frozen time, provided that asyncio's own clock keeps running."""
    pytest.importorskip("freezegun")
    faults = [Fault(status=503, headers={"retry-after": "0.05"}), Fault(status=429), Fault(reset="before")]
    emulator.script(*faults, None, *faults)
    printed = run(
        """
        import asyncio
        from freezegun import freeze_time

        with freeze_time("2026-01-01"), EmbeddingClient(CONFIG) as client:
            print(client.embed(TEXTS[:1]).usage.requests)

        async def main():
            async with AsyncEmbeddingClient(CONFIG) as client:
                print((await client.embed(TEXTS[:1])).usage.requests)

        with freeze_time("2026-01-01", real_asyncio=True):
            asyncio.run(main())
        """
    )
    assert printed == "4\n4\n"
