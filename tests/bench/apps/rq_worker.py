"""A worker of rq that has the app imported, and forks for each job."""

import sys

import once
from redis import Redis
from rq import Queue, Worker

assert once.job
connection = Redis(port=int(sys.argv[1]))
Worker([Queue(connection=connection)], connection=connection).work(logging_level="ERROR")
