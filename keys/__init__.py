"""Who may act, and the secrets of those who do.

Owns: organizations, API keys, secrets. Serves: mesh.keys.v1.Keys, Secrets, Webhooks and Receipts. Calls nobody.
Stores: `organizations`, `keys` (a keyed hash of each, never the key), `secrets`, `webhook_secrets` and `receipt_keys`
(sealed), `outbox`.
Sends: event.key.revoked, event.secret.changed.
At the first start it makes the first organization and leaves its admin key in RUNMESH_HOME/admin.key.
"""
