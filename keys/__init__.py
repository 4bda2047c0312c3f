"""Who may act, and the secrets of those who do.

Owns: organizations, API keys, secrets, the audit log. Serves: mesh.keys.v1.Keys, Secrets and Webhooks,
mesh.ledger.v1.Audit. Calls nobody.
Stores: `organizations`, `keys` (a keyed hash of each, never the key), `secrets`, `webhook_secrets` (sealed), `audit`
(which nobody changes), `outbox`.
Sends: event.key.revoked, event.secret.changed.
At the first start it makes the first organization and leaves its admin key in RUNMESH_HOME/admin.key.
"""
