"""What can go wrong, as a tree. Every error says what happened, with which value, where, and what to do.

RlEmpathyError
├── ConfigError (ValueError)          the run file or an override is wrong                      exit 2
├── DataError (ValueError)            a data file or a row is wrong; names file and line        exit 2
├── ModelError (ValueError)           a model cannot be found or used                           exit 2
├── RunDirectoryError (RuntimeError)  the run is taken, changed or damaged                      exit 2
├── ResourceError (RuntimeError)      the cluster cannot give what the plan needs               exit 3
├── RewardError (RuntimeError)        a reward term raised or was not finite; names the prompt  exit 4
├── RoleTimeoutError (TimeoutError)   a role did not answer before its deadline                 exit 4
├── RoleDiedError (RuntimeError)      the process of a role is gone                             exit 4
│   └── OutOfMemoryError              since memory was full; once it goes on with less          exit 3
├── TrainerLostError (RuntimeError)   the policy trainer is gone: rebuilt from its checkpoint    exit 4
├── VoidedError (RuntimeError)        a request was given up for a whole load: sampled again    exit 4
├── PayloadLostError (RuntimeError)   the node that held a group is gone; grpo samples it again  exit 4
├── WeightSyncError (RuntimeError)    versions disagree after a publish                         exit 4
├── LedgerError (RuntimeError)        an occurrence took a step that its state does not allow   exit 4
├── TrainingError (RuntimeError)      loss or gradient is not finite, again and again           exit 4
├── AnnotationError (RuntimeError)    a teacher gave no usable trace for any row                exit 4
├── CheckpointError (RuntimeError)    a checkpoint is damaged or could not be written           exit 4
└── Stopped (Exception)               asked to stop; the same command goes on                   exit 75

All of them are picklable: Ray ships them between processes.
"""


class RlEmpathyError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 4


class ConfigError(RlEmpathyError, ValueError):
    """The run file or an override is wrong; the text lists every problem with file and line."""

    exit_code = 2


class DataError(RlEmpathyError, ValueError):
    """A data file is missing or a row is wrong; the text names file and line."""

    exit_code = 2


class ModelError(RlEmpathyError, ValueError):
    """A model path does not exist, or the model cannot be used as the run file asks."""

    exit_code = 2


class RunDirectoryError(RlEmpathyError, RuntimeError):
    """The run directory belongs to a living run, to another configuration, or is damaged."""

    exit_code = 2


class ResourceError(RlEmpathyError, RuntimeError):
    """The cluster cannot give what the plan needs: CPUs, GPUs, a port, room on the disk."""

    exit_code = 3


class RewardError(RlEmpathyError, RuntimeError):
    """A reward term raised or returned a number that is not finite."""


class RoleTimeoutError(RlEmpathyError, TimeoutError):
    """A role did not answer before its deadline; the text names role, node, wait and log."""


class RoleDiedError(RlEmpathyError, RuntimeError):
    """The process of a role is gone; the text names role, node and log."""


class OutOfMemoryError(RoleDiedError):
    """A role ran out of memory, of its node or its GPU; the text says how much was held, and what makes it less."""

    exit_code = 3


class ScorerLostError(RlEmpathyError, RuntimeError):
    """A scorer was lost again and again while it had this group; the group is dropped."""


class TrainerLostError(RlEmpathyError, RuntimeError):
    """The policy trainer died or does not answer; steps after its last checkpoint are undone."""


class VoidedError(RlEmpathyError, RuntimeError):
    """A rollout worker gave a request up: its weights were replaced whole, or vLLM broke a completion off.

    The worker goes on, and the prompt is sampled again.
    """


class PayloadLostError(RlEmpathyError, RuntimeError):
    """The tokens of a group went with the node that held them; its prompt is sampled again."""


class WeightSyncError(RlEmpathyError, RuntimeError):
    """A worker holds another policy version than the one that was published."""


class LedgerError(RlEmpathyError, RuntimeError):
    """An occurrence was asked to take a step that its state does not allow."""


class TrainingError(RlEmpathyError, RuntimeError):
    """The loss or the gradient was not finite several times in a row."""


class AnnotationError(RlEmpathyError, RuntimeError):
    """A teacher gave no usable trace for any row; the text has the commonest reason."""


class CheckpointError(RlEmpathyError, RuntimeError):
    """A checkpoint is damaged, or could not be written."""


class Stopped(RlEmpathyError):
    """The run was asked to stop, kept what it had, and goes on when it is started again."""

    exit_code = 75
