"""vLLM's engine with its core in this process, behind the `generate` of its asynchronous one.

`AsyncLLM` always starts the core as a process. Where that is switched off (VLLM_ENABLE_V1_MULTIPROCESSING=0), one
thread makes the engine, steps it as `LLM.generate` does, and tells the event loop what came out.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from typing import Any

Work = Callable[[], Any]
DRAIN_POLL = 0.001  # seconds


class InProcess:
    """The engine of `make()`, used by one thread alone."""

    def __init__(self, make: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.inbox: queue.SimpleQueue[tuple[Work, Future[Any]]] = queue.SimpleQueue()
        self.outputs: dict[str, asyncio.Queue[Any]] = {}
        self.error: BaseException | None = None  # what ended the thread
        self.paused = False
        made: Future[Any] = Future()
        threading.Thread(target=self._serve, args=(make, made), daemon=True).start()
        self.engine = made.result()

    def do(self, work: Work) -> "Future[Any]":
        """Have the thread do something between two steps."""
        done: Future[Any] = Future()
        if self.error:
            done.set_exception(self.error)
        else:
            self.inbox.put((work, done))
        return done

    async def generate(self, prompt: Any, sampling: Any, request_id: str, **options: Any) -> AsyncIterator[Any]:
        """Outputs of one request, as `AsyncLLM.generate` gives them, with `options` such as `lora_request`."""
        if self.error:
            raise self.error
        outputs = self.outputs[request_id] = asyncio.Queue()
        arrived = time.time()
        self.do(lambda: self.engine.add_request(request_id, prompt, sampling, arrival_time=arrived, **options))
        try:
            while True:
                output = await outputs.get()
                if isinstance(output, BaseException):
                    raise output
                if output is None:  # aborted
                    return
                yield output
                if output.finished:
                    return
        finally:
            del self.outputs[request_id]

    async def pause(self, mode: str) -> None:
        """As `AsyncLLM.pause_generation` with `abort`, `wait` or `keep`, which leaves all caches alone."""
        while mode == "wait" and self.outputs:
            await asyncio.sleep(DRAIN_POLL)
        dropped = list(self.outputs) if mode == "abort" else []
        await asyncio.wrap_future(self.do(lambda: self._pause(dropped)))
        for request_id in dropped:
            if waiting := self.outputs.get(request_id):
                waiting.put_nowait(None)

    def _pause(self, dropped: list[str]) -> None:
        """As the core does in a process of its own: it steps until no batch is under way."""
        self.engine.abort_request(dropped)
        core = self.engine.engine_core.engine_core
        core.pause_scheduler("keep", clear_cache=False)
        while core.scheduler.has_requests() or core.batch_queue:
            self.loop.call_soon_threadsafe(self._deliver, self.engine.step())
        self.paused = True

    async def resume(self) -> None:
        def go_on() -> None:
            self.engine.engine_core.engine_core.resume_scheduler()
            self.paused = False

        await asyncio.wrap_future(self.do(go_on))

    def _serve(self, make: Callable[[], Any], made: "Future[Any]") -> None:
        try:
            engine = make()
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(engine)
        while True:
            try:
                self._take(idle=self.paused or not engine.has_unfinished_requests())
                if not self.paused and engine.has_unfinished_requests():
                    self.loop.call_soon_threadsafe(self._deliver, engine.step())
            except Exception as error:
                self.error = error
                self.loop.call_soon_threadsafe(self._fail, error)
                return

    def _take(self, idle: bool) -> None:
        """Do all that waits; when idle, wait for something, and for what else the event loop has ready to send, so that
        requests of one moment come in together as `LLM.generate` gives them."""
        waiting = [self.inbox.get()] if idle else []
        if idle and self.loop.is_running():
            sent = threading.Event()
            self.loop.call_soon_threadsafe(sent.set)
            sent.wait(1)  # the loop may stop meanwhile
        while not self.inbox.empty():
            waiting.append(self.inbox.get())
        for work, done in waiting:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)
                self.loop.call_soon_threadsafe(self._fail, error)

    def _deliver(self, outputs: Iterable[Any]) -> None:
        """All outputs of a step at once, so that the turns that follow them come in together too."""
        for output in outputs:
            if waiting := self.outputs.get(output.request_id):
                waiting.put_nowait(output)

    def _fail(self, error: BaseException) -> None:
        for outputs in self.outputs.values():
            outputs.put_nowait(error)
