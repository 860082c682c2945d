"""Signs of life between the processes of one run: one that hangs does not hold the others for long.

A process that waits for another sits in a call that no signal interrupts; so threads watch, and
end the process when another has been silent for a while, or ``torchrun`` has ended.
"""

import logging
import os
import signal
import socket
import threading
import time

import torch.distributed as dist

from .interrupts import MACHINE, RESUME, parent

logger = logging.getLogger(__name__)
BEAT = 2.0  # seconds between two signs
SILENCE = 40.0  # seconds without a sign after which a process counts as lost


def of_this_start(store: dist.Store) -> dist.Store:
    """A store without what it holds of processes that torchrun has started again since."""
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class Heartbeat(threading.Thread):
    """Watches the process that started this one and, once they are joined, the other ranks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rank = 0
        self._parent = parent()
        self._orphan_since = float("inf")
        self._heard: dict[int, tuple[int, float]] = {}  # rank -> its last count, and when
        self._ended = threading.Event()

    def listen(self, rank: int, size: int) -> None:
        """Exchange signs with the other ranks from now on."""
        self.rank = rank
        now = time.monotonic()
        self._heard = {other: (0, now) for other in range(size) if other != rank}
        threading.Thread(target=self._exchange, daemon=True).start()  # it may block forever

    def end(self) -> None:
        """The run is over; nobody is waited for."""
        self._ended.set()

    def _exchange(self) -> None:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = of_this_start(dist.TCPStore(address, port, is_master=False))
            while not self._ended.wait(BEAT):
                store.add(f"sign of {self.rank}", 1)
                for other, (count, _) in list(self._heard.items()):
                    if (new := store.add(f"sign of {other}", 0)) != count:
                        self._heard[other] = new, time.monotonic()
        except RuntimeError:  # who keeps the store is gone: the others are silent from now on
            return

    def run(self) -> None:
        """Look after the others until the run is over."""
        last = answered = time.monotonic()
        while not self._ended.wait(BEAT):
            now = time.monotonic()
            if now - last > SILENCE / 2:  # this process itself was stopped, perhaps all were
                self._heard = {other: (count, now) for other, (count, _) in self._heard.items()}
            last = now
            if os.getppid() != self._parent and self._orphan_since > now:
                self._orphan_since = now
                os.kill(os.getpid(), signal.SIGTERM)  # time to keep the state
            if self._heard or self._is_answered():
                answered = now
            grace = SILENCE if self._heard else BEAT  # before they are joined nothing is kept
            if now - self._orphan_since > grace or now - answered > SILENCE:
                self._give_up("The process that started this one has ended")
            silent = [other for other, (_, heard) in self._heard.items() if now - heard > SILENCE]
            if silent:
                names = ", ".join(map(str, silent))
                self._give_up(f"No sign of life of rank {names} for {SILENCE:.0f} seconds")

    @staticmethod
    def _is_answered() -> bool:
        """Whether torchrun, which keeps the store in which ranks find each other, is there."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True  # the first rank will keep it
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            socket.create_connection(place, timeout=BEAT).close()
        except OSError:
            return False
        return True

    def _give_up(self, reason: str) -> None:
        logger.error(
            "%s; this process (rank %d) ends, too. Files of the run are whole. %s",
            *(reason, self.rank, RESUME),
        )
        os._exit(MACHINE)
