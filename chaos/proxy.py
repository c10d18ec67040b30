"""A network that can be broken: it stands before a server, and drops, delays, halves and cuts as it is told."""

import asyncio
import random
import threading
from typing import Literal

Mode = Literal["pass", "cut", "drop", "delay", "halve"]


class Proxy:
    """Passes connections on to a port of this machine, from a thread of its own.

    cut: connections are closed, and new ones too. drop: nothing passes, and nobody is told. delay: each piece waits
    `seconds`. halve: of every third reply half passes, and then the connection is closed.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.target = target
        self.mode: Mode = "pass"
        self.seconds = 0.0
        self._chance = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = started.result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def set(self, mode: Mode, seconds: float = 0.0) -> None:
        """From now on; what was in the way when the network broke, or heals, is cut off."""
        self.seconds, before, self.mode = seconds, self.mode, mode
        if "cut" in (mode, before) or "drop" in (mode, before):
            asyncio.run_coroutine_threadsafe(self._close_all(), self._loop).result(10)

    def stop(self) -> None:
        """Close everything."""

        async def end() -> None:
            self._server.close()
            await self._close_all()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _close_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            writer.transport.abort()
            return
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, there}
        try:
            pumps = [
                asyncio.create_task(self._pump(reader, there, reply=False)),
                asyncio.create_task(self._pump(there_reader, writer, reply=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        finally:
            for each in (writer, there):
                self._open.discard(each)
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        try:
            while piece := await reader.read(65536):
                if self.mode == "drop":
                    continue
                if self.mode == "delay":
                    await asyncio.sleep(self.seconds)
                if self.mode == "halve" and reply and self._chance.random() < 1 / 3:
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    return
                writer.write(piece)
                await writer.drain()
        except OSError:
            return
