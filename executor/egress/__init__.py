"""A run's way to the rest of the world: transparent, ruled, logged.

What a workflow connects to in its own network arrives here, on listeners that the spawner opened in it (netns.py).
Names are answered with addresses that mean something in that run only (dns.py, names.py), so that a connection tells
which name was meant; where it leads is looked up here, and it is made only to an address that was checked (gate.py).

Reading order: kit/addresses.py (what is private), rules.py (what a workflow may reach), log.py (what it reached),
gate.py (the decision), dns.py and names.py, egress.py (the sockets), carry.py (the bytes); where a secret is filled in:
fill.py (what, and for whom), authority.py (certificates), intercept.py (both ends), relay.py (HTTP in between);
recordings: recorder.py (what is written down), recorded.py (what is intercepted), cassette.py, offline.py (who is
answered by one).
"""
