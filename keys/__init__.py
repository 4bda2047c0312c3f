"""Who may act, the secrets of those who do, and what they may spend.

Owns: organizations, API keys, secrets, money (docs/money.md), prices, rate limits, the audit log.
Serves: mesh.keys.v1.Keys, Secrets, Webhooks, RateLimits and Receipts, mesh.ledger.v1.Ledger, Prices and Audit.
Calls nobody.
Stores: `organizations`, `keys` (a keyed hash of each, never the key), `secrets`, `webhook_secrets` and `receipt_keys`
(sealed), `sealed_versions`, `permit_buckets`, `audit` (which nobody changes), `outbox`; `accounts`,
`ledger_transactions`, `ledger_entries`, `budgets`, `purses`, `purse_lives`, `bills`, `bill_lines`, `prices`,
`price_lists`.
Sends: event.key.revoked, event.secret.changed.
At the first start it makes the first organization and leaves its admin key in RUNMESH_HOME/admin.key.
"""
