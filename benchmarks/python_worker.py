"""Takes locks of a Python library over and over; a worker of the benchmarks.

usage: python_worker.py LIBRARY ADDRESS WORK MEMBER THREADS HOLD_MS SPAN_MS

LIBRARY is redis-py (its Lock with default settings; ADDRESS is a redis:// URL) or tooz (ADDRESS is a tooz URL). WORK is
hot (one key for everybody), own (a hundred keys of this MEMBER's, in turn) or batch (64 of them, one after the other, and
back). Says "ready", waits for a line, and prints what each thread got, then how long cycles took without the hold, in ns.
"""

import itertools
import sys
import threading
import time

KEYS = 100
BATCH = 64


def locks_of_redis_py(address):
    try:
        import redis
    except ImportError:
        sys.exit("redis-py is missing: install python3-redis")
    client = redis.Redis.from_url(address)
    client.ping()
    return client.lock


def locks_of_tooz(address):
    try:
        from tooz import coordination
    except ImportError:
        sys.exit("tooz is missing: install python3-tooz")
    coordinator = coordination.get_coordinator(address, f"member-{sys.argv[4]}".encode())
    coordinator.start()
    return lambda name: coordinator.get_lock(name.encode())


LIBRARIES = {"redis-py": locks_of_redis_py, "tooz": locks_of_tooz}


def cycles(make_lock, work, member, hold):
    """Endless: does a cycle at each step and yields how long it took."""
    names = ["hot"] if work == "hot" else [f"own-{member}-{i}" for i in range(KEYS)]
    locks = [make_lock(name) for name in names]
    groups = [locks[:BATCH]] if work == "batch" else [[lock] for lock in locks]
    for these in itertools.cycle(groups):
        begin = time.perf_counter_ns()
        for lock in these:
            if not lock.acquire():
                sys.exit("a lock was not acquired")
        took = time.perf_counter_ns() - begin
        if hold:
            time.sleep(hold)
        begin = time.perf_counter_ns()
        for lock in these:
            lock.release()
        yield took + time.perf_counter_ns() - begin


def main(library, address, work, member, threads, hold_ms, span_ms):
    make_lock = LIBRARIES[library](address)
    times = [[] for _ in range(int(threads))]

    def take_turns(mine, end):
        for took in cycles(make_lock, work, member, int(hold_ms) / 1000):
            mine.append(took)
            if time.monotonic() >= end:
                return

    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + int(span_ms) / 1000
    running = [threading.Thread(target=take_turns, args=(mine, end)) for mine in times]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(*(len(mine) for mine in times))
    print(*(took for mine in times for took in mine))


if __name__ == "__main__":
    main(*sys.argv[1:])
