from export.artifact import Artifact as Artifact, load as load
from export.deployment import deploy as deploy
from export.errors import ExportError as ExportError, VerificationError as VerificationError
from export.exporter import export as export
from export.generation import generate_dataset as generate_dataset
from export.inspection import inspect as inspect
from export.verification import verify as verify
