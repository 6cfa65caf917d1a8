"""What graders are made of. Most of them need these names alone; the rest stand in the modules."""

from graders.harness.calls import Called, call_case, failing_case
from graders.harness.cases import Case, Raised, attempt, called_with, check_kind, fails, grader, kind_of, refused
from graders.harness.differences import difference, same
from graders.harness.expect import check, check_close, check_mean_dtype, check_tensor, on_tiny_models, tolerance
from graders.harness.scripted import Exchange, exchange, prompt_of
