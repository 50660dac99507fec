"""An engine's processes, without which its front in this process would wait for ever."""

import multiprocessing
import os
import select
import threading

LAST_WORDS = 1.0  # seconds for errors to go out when one has died


def end_with_children(closed: threading.Event) -> None:
    """End this process when one of those that it has started dies before `closed` is set: vLLM never answers a call
    during which its core dies, and SGLang ends itself only when its loop runs."""
    children = multiprocessing.active_children()
    ends = [os.pidfd_open(child.pid) for child in children if child.pid]

    def watch() -> None:
        select.select(ends, [], [])
        if not closed.wait(LAST_WORDS):
            gone = [f"{child.name} (exit status {child.exitcode})" for child in children if not child.is_alive()]
            print(f"a process of the engine has died: {', '.join(gone)}", flush=True)
            os._exit(1)

    if children:
        threading.Thread(target=watch, daemon=True).start()
