"""Takes one lock of redis-py with its default settings over and over; a worker of redis_queue_bench.

usage: redis_py_worker.py PORT THREADS HOLD_MS SPAN_MS; says "ready", waits for a line, and prints what each thread got.
"""

import sys
import threading
import time

try:
    import redis
except ImportError:
    sys.exit("redis-py is missing: install python3-redis")

port, threads, hold_ms, span_ms = map(int, sys.argv[1:])
client = redis.Redis(host="127.0.0.1", port=port)
client.ping()
turns = [0] * threads


def take_turns(number, end):
    lock = client.lock("redis-py")
    while time.monotonic() < end:
        with lock:
            turns[number] += 1
            if hold_ms:
                time.sleep(hold_ms / 1000)


print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + span_ms / 1000
running = [threading.Thread(target=take_turns, args=(i, end)) for i in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
print(*turns)
