"""Who may act, and the secrets of those who do.

Owns: organizations, API keys, secrets, rate limits, prices. Calls nobody.
Serves: mesh.keys.v1 Keys, Secrets, Webhooks and RateLimits, mesh.ledger.v1 Prices.
Stores: `organizations`, `keys` (a keyed hash of each, never the key), `secrets`, `webhook_secrets` (sealed), `outbox`;
`permit_buckets`, `prices`, `price_lists`.
Sends: event.key.revoked, event.secret.changed.
At the first start it makes the first organization and leaves its admin key in RUNMESH_HOME/admin.key.
"""
