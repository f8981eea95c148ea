"""The names of spans and attributes. There is no established convention for workflows yet."""

from typing import Final

SCOPE: Final = "mendflow"
SERVICE: Final = "mendflow"

WORKFLOW_SPAN: Final = "workflow {workflow_type}"
ATTEMPT_SPAN: Final = "step {step_name}"

WORKFLOW_ID: Final = "workflow.id"
WORKFLOW_TYPE: Final = "workflow.type"
WORKFLOW_UID: Final = "workflow.uid"
WORKFLOW_STATE: Final = "workflow.state"
STEP_KEY: Final = "workflow.step.key"
STEP_NAME: Final = "workflow.step.name"
ATTEMPT: Final = "workflow.step.attempt"
LOST: Final = "mendflow.attempt.lost"
FAILURE_KIND: Final = "mendflow.failure.kind"
ERROR_TYPE: Final = "error.type"
RETRY_ACTION: Final = "mendflow.retry.action"
RETRY_REASON: Final = "mendflow.retry.reason"
RETRY_DELAY: Final = "mendflow.retry.delay_seconds"
RETRY_EXPLANATION: Final = "mendflow.retry.explanation"
