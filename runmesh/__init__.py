"""Runmesh from Python: check, deploy and follow workflows, keep secrets.

On top of the published `codewords-client` (0.2.4 or newer), which brings the connection: the address is read from
CODEWORDS_RUNTIME_URI, the key from CODEWORDS_API_KEY. `runmesh.aio` has the same functions for async code.
docs/python.md tells more.
"""

from runmesh.errors import (
    Denied,
    InvalidWorkflow,
    MissingSecret,
    NotConfigured,
    NotFound,
    Pending,
    RateLimited,
    RunmeshError,
    Unauthenticated,
    Unreachable,
)
from runmesh.model import Check, Deployment, Integration, Secret, SecretsResult, Validation, WorkflowOutput
from runmesh.sync import (
    deploy_workflow,
    discover_pipedream_integrations,
    get_workflow_logs,
    get_workflow_output,
    manage_secrets,
    validate_workflow,
)

__all__ = [
    "Check",
    "Denied",
    "Deployment",
    "Integration",
    "InvalidWorkflow",
    "MissingSecret",
    "NotConfigured",
    "NotFound",
    "Pending",
    "RateLimited",
    "RunmeshError",
    "Secret",
    "SecretsResult",
    "Unauthenticated",
    "Unreachable",
    "Validation",
    "WorkflowOutput",
    "deploy_workflow",
    "discover_pipedream_integrations",
    "get_workflow_logs",
    "get_workflow_output",
    "manage_secrets",
    "validate_workflow",
]
