"""Which handler serves which public rpc, and what it asks of the caller's key."""

from collections.abc import Mapping

from edge.deliveries import DeliveryHandlers
from edge.documents import DocumentHandlers
from edge.files import FileHandlers
from edge.hooks import HookHandlers
from edge.keys import KeyHandlers
from edge.model import Access
from edge.money import MoneyHandlers
from edge.platform import PlatformHandlers
from edge.receipts import ReceiptHandlers
from edge.rpc import Endpoint
from edge.runs import RunHandlers
from edge.schedules import ScheduleHandlers
from edge.secrets import SecretHandlers
from edge.serving import ServingHandlers
from edge.templates import TemplateHandlers
from edge.webhooks import WebhookHandlers
from edge.workflows import WorkflowHandlers


def endpoints(
    *,
    runs: RunHandlers,
    keys: KeyHandlers,
    workflows: WorkflowHandlers,
    serving: ServingHandlers,
    templates: TemplateHandlers,
    secrets: SecretHandlers,
    schedules: ScheduleHandlers,
    hooks: HookHandlers,
    files: FileHandlers,
    platform: PlatformHandlers,
    deliveries: DeliveryHandlers,
    webhooks: WebhookHandlers,
    receipts: ReceiptHandlers,
    money: MoneyHandlers,
) -> Mapping[str, Endpoint]:
    """By the names of the rpcs of mesh.edge.v1."""
    return {
        **_of_runs(runs, deliveries, receipts),
        "Keys.IssueKey": Endpoint(keys.issue, Access.ADMIN),
        "Keys.ListKeys": Endpoint(keys.list_keys, Access.ADMIN),
        "Keys.RevokeKey": Endpoint(keys.revoke, Access.ADMIN),
        "Keys.RotateKey": Endpoint(keys.rotate, Access.ADMIN),
        "Keys.CreateOrganization": Endpoint(keys.create_organization, Access.FIRST_ADMIN),
        "Keys.SetRates": Endpoint(keys.set_rates, Access.FIRST_ADMIN),
        **_of_money(money),
        "Workflows.Validate": Endpoint(workflows.validate, Access.DEPLOY),
        "Workflows.Deploy": Endpoint(workflows.deploy, Access.DEPLOY),
        "Workflows.ListWorkflows": Endpoint(workflows.list_workflows, Access.DEPLOY),
        "Workflows.ReadWorkflow": Endpoint(workflows.get, Access.DEPLOY),
        "Workflows.UpdateWorkflow": Endpoint(workflows.update, Access.DEPLOY),
        "Workflows.DeleteWorkflow": Endpoint(workflows.delete, Access.DEPLOY),
        "Workflows.PublishWorkflow": Endpoint(workflows.publish, Access.DEPLOY),
        "Workflows.ListVersions": Endpoint(serving.versions, Access.DEPLOY),
        "Workflows.RollBackWorkflow": Endpoint(serving.roll_back, Access.DEPLOY),
        "Workflows.SplitTraffic": Endpoint(serving.split, Access.DEPLOY),
        "Workflows.UnpublishWorkflow": Endpoint(workflows.unpublish, Access.DEPLOY),
        "Templates.ListTemplates": Endpoint(templates.list_templates, Access.ANY),
        "Templates.ReadTemplate": Endpoint(templates.get, Access.ANY),
        "Secrets.ListSecrets": Endpoint(secrets.list_secrets, Access.DEPLOY),
        "Secrets.PutSecret": Endpoint(secrets.put, Access.DEPLOY),
        "Secrets.DeleteSecret": Endpoint(secrets.delete, Access.DEPLOY),
        "Schedules.ListSchedules": Endpoint(schedules.list_schedules, Access.DEPLOY),
        "Schedules.CreateSchedule": Endpoint(schedules.create, Access.SCHEDULE),
        "Schedules.DeleteSchedule": Endpoint(schedules.delete, Access.DEPLOY),
        "Hooks.CreateHook": Endpoint(hooks.create, Access.HOOK),
        "Hooks.ListHooks": Endpoint(hooks.list_hooks, Access.HOOK),
        "Hooks.DeleteHook": Endpoint(hooks.delete, Access.HOOK),
        "Hooks.ReceiveEvent": Endpoint(hooks.receive, Access.OPEN),
        "Webhooks.ReadWebhookSecret": Endpoint(webhooks.secret, Access.ADMIN),
        "Webhooks.RotateWebhookSecret": Endpoint(webhooks.rotate, Access.ADMIN),
        "Files.CreateFile": Endpoint(files.create, Access.FILES),
        "Platform.CheckHealth": Endpoint(platform.health, Access.OPEN),
        "Platform.CheckReady": Endpoint(platform.ready, Access.OPEN),
        "Platform.ReadMetrics": Endpoint(platform.metrics, Access.OPEN),
        "Receipts.ReadReceiptKeys": Endpoint(receipts.jwks, Access.OPEN),
        "Receipts.RotateReceiptKey": Endpoint(receipts.rotate, Access.FIRST_ADMIN),
        "Platform.Refuse": Endpoint(platform.refuse, Access.OPEN),
    }


def documented(endpoints: Mapping[str, Endpoint], public_url: str) -> Mapping[str, Endpoint]:
    """With those that describe them all."""

    def accesses() -> Mapping[str, Access]:
        return {name: each.access for name, each in served.items()}

    documents = DocumentHandlers(accesses, public_url)
    served = {
        **endpoints,
        "Documents.ReadOpenapi": Endpoint(documents.openapi, Access.OPEN),
        "Documents.ReadPostman": Endpoint(documents.postman, Access.OPEN),
        "Documents.ReadExplorer": Endpoint(documents.explorer, Access.OPEN),
        "Documents.ReadExplorerFile": Endpoint(documents.explorer_file, Access.OPEN),
    }
    return served


def _of_runs(runs: RunHandlers, deliveries: DeliveryHandlers, receipts: ReceiptHandlers) -> Mapping[str, Endpoint]:
    return {
        "Runs.Run": Endpoint(runs.run, Access.CALL),
        "Runs.RunOpenai": Endpoint(runs.library("openai"), Access.START),
        "Runs.RunAnthropic": Endpoint(runs.library("anthropic"), Access.START),
        "Runs.RunGemini": Endpoint(runs.library("gemini"), Access.START),
        "Runs.RunAsync": Endpoint(runs.run_async, Access.START),
        "Runs.ProvisionRequest": Endpoint(runs.provision, Access.START),
        "Runs.ReadResult": Endpoint(runs.result, Access.READ),
        "Runs.ReadRequest": Endpoint(runs.request_get, Access.READ),
        "Runs.ReadEgress": Endpoint(runs.egress, Access.READ),
        "Runs.ListDeliveries": Endpoint(deliveries.deliveries, Access.READ),
        "Runs.CancelRequest": Endpoint(runs.request_delete, Access.RUN),
        "Runs.ListRequests": Endpoint(runs.requests, Access.RUN),
        "Runs.ReplayRequest": Endpoint(runs.replay, Access.RUN),
        "Runs.ReadDiff": Endpoint(runs.diff, Access.READ),
        "Runs.ReadReceipt": Endpoint(receipts.receipt, Access.READ),
        "Runs.RunPublished": Endpoint(runs.published.run, Access.START),
        "Runs.StreamPublished": Endpoint(runs.published.stream, Access.START),
        "Runs.ReadLogs": Endpoint(runs.logs, Access.READ),
    }


def _of_money(money: MoneyHandlers) -> Mapping[str, Endpoint]:
    return {
        "Money.ReadCredits": Endpoint(money.credits, Access.ADMIN),
        "Money.GrantCredits": Endpoint(money.grant, Access.FIRST_ADMIN),
        "Money.ReadUsage": Endpoint(money.usage, Access.ADMIN),
        "Money.ListPrices": Endpoint(money.prices, Access.ANY),
        "Money.SetPrice": Endpoint(money.set_price, Access.FIRST_ADMIN),
        "Money.ListAudit": Endpoint(money.audit, Access.ADMIN),
    }
