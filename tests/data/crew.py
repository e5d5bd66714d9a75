"""Several processes in one: threads of which one runs at a time, each with random numbers of its own."""

import threading

from kerastorch import randomness
from kerastorch.data import Share


def crew(size, work, *args):
    """Call `work(share, *args)` for each process; return what each returned, by rank."""
    lock, barrier = threading.Lock(), threading.Barrier(size, timeout=20)
    box, results, errors, begin = [None] * size, [None] * size, {}, randomness.capture()

    def run(rank):
        def everyone(value):
            state = randomness.capture()
            box[rank] = value
            lock.release()
            try:
                barrier.wait()
                found = list(box)
                barrier.wait()
            finally:
                lock.acquire()
            randomness.restore(state)
            return found

        with lock:
            randomness.restore(begin)
            try:
                results[rank] = work(Share(rank, size, everyone), *args)
            except BaseException as error:
                errors[rank] = error
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    randomness.restore(begin)
    told = [error for error in errors.values() if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (told or list(errors.values()))[0]
    return results
