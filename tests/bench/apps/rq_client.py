"""Enqueues jobs one after the other; prints how long each took until its result was there, in ms."""

import json
import sys
import time

from redis import Redis
from rq import Queue

queue = Queue(connection=Redis(port=int(sys.argv[1])))
taken = []
for _ in range(int(sys.argv[2]) + 1):
    started = time.monotonic()
    job = queue.enqueue("once.job", '{"name": "Ada"}')
    while job.latest_result() is None:
        time.sleep(0.001)
    taken.append((time.monotonic() - started) * 1000)
print(json.dumps(taken[1:]))
