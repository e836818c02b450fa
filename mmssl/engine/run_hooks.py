"""Hooks of mmssl's runners, which run before and after all others at every point of a run."""

from mmengine.hooks import Hook

from mmssl.engine.exact_resume import ExactResume
from mmssl.engine.progress import note_beginning
from mmssl.engine.screen import current_screen
from mmssl.engine.signals import current_watch
from mmssl.engine.stop import Stopper
from mmssl.engine.training_length import refuse_endless_epochs, warn_of_other_length


class FirstHook(Hook):
    """Does at each point of a run what has to precede the other hooks.

    Args:
        exact_resume: Generators, position and checkpoints.
        stopper: End of the run after a signal.
    """

    priority = 'HIGHEST'

    def __init__(self, exact_resume: ExactResume, stopper: Stopper):
        self.exact_resume = exact_resume
        self.stopper = stopper

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Read the additions to the checkpoint."""
        self.exact_resume.read_checkpoint(checkpoint)

    def before_train(self, runner) -> None:
        """Compare the length of the training with that of its schedules."""
        refuse_endless_epochs(runner)
        warn_of_other_length(runner)

    def before_train_epoch(self, runner) -> None:
        """Restore the generators at an epoch's beginning, before other hooks draw from them."""
        self.exact_resume.restore_generators(at_boundary=True)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note the first step."""
        _note_first_step(runner)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note the first step."""
        _note_first_step(runner)

    def before_val(self, runner) -> None:
        """Save the states of the generators; leave if a signal has come."""
        self.exact_resume.begin_validation()
        if runner.started:
            self.stopper.before_validation()

    def before_test(self, runner) -> None:
        """Save the states of the generators."""
        self.exact_resume.begin_validation()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Let signals wait for the end of a step again."""
        if runner.started:
            self.stopper.set_validating(False)


class LastHook(Hook):
    """Does at each point of a run what has to follow the other hooks.

    Args:
        exact_resume: Generators, position and checkpoints.
        stopper: End of the run after a signal.
    """

    priority = 'LOWEST'

    def __init__(self, exact_resume: ExactResume, stopper: Stopper):
        self.exact_resume = exact_resume
        self.stopper = stopper

    def before_train(self, runner) -> None:
        """Write the summary of the run; run a validation that is still to be made."""
        note_beginning(runner)
        screen = current_screen()
        if screen is not None:
            screen.begin(runner)
        self.exact_resume.run_due_validation()

    def before_train_epoch(self, runner) -> None:
        """Restore the generators within an epoch, for which the other hooks have drawn before."""
        self.exact_resume.restore_generators(at_boundary=False)

    def after_run(self, runner) -> None:
        """Write where the results are."""
        screen = current_screen()
        if screen is not None:
            screen.end(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Complete the checkpoint."""
        self.exact_resume.add_to_checkpoint(checkpoint)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Write a line if none was written for a while; leave if a signal has come."""
        screen = current_screen()
        if screen is not None:
            screen.after_step(runner, outputs)
        self.stopper.after_step()

    def before_val_epoch(self, runner) -> None:
        """Let signals raise at once."""
        if runner.started:
            self.stopper.set_validating(True)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Leave if a signal has come."""
        self.stopper.while_validating()

    def after_val(self, runner) -> None:
        """Restore the states of the generators."""
        self.exact_resume.end_validation()

    def after_test(self, runner) -> None:
        """Restore the states of the generators."""
        self.exact_resume.end_validation()


def _note_first_step(runner) -> None:
    """From the first step on there is something to save, so that signals wait for the end of a step."""
    if not runner.started:
        runner.started = True
        watch = current_watch()
        if watch is not None:
            watch.immediate = False
