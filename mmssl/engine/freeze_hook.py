"""Hook that trains the heads alone at the start, on a backbone that keeps its released weights."""

from mmengine.hooks import Hook
from torch.utils.hooks import RemovableHandle

from mmssl.engine.bare_model import bare_model
from mmssl.registry import HOOKS


@HOOKS.register_module()
class FreezeBackboneHook(Hook):
    """Leave the backbone as it is for the first iterations.

    New heads send useless gradients into released weights. Here they are discarded before the optimizer's
    step, so that neither weights nor the optimizer's moments change, and weight decay shrinks nothing; a norm
    of all gradients that is clipped still contains them. Momentum encoders follow the student, and stay too.

    Args:
        iters: Iterations without a step of the backbone.
        part: Name of the module that is frozen.

    Raises:
        ValueError: ``iters`` is no whole number above 0, or the model has no such part.
    """

    def __init__(self, iters: int, part: str = 'backbone'):
        if isinstance(iters, bool) or not isinstance(iters, int) or iters < 1:
            raise ValueError(f'FreezeBackboneHook: iters={iters!r} must be a whole number, at least 1')
        self.iters = iters
        self.part = part
        self._handle: RemovableHandle | None = None

    def before_train(self, runner) -> None:
        """Discard the gradients of the part before every step of the optimizer."""
        modules = dict(bare_model(runner.model).named_modules())
        if self.part not in modules:
            raise ValueError(f'FreezeBackboneHook: the model has no part {self.part!r}; set part=')
        parameters = [each for each in modules[self.part].parameters() if each.requires_grad]
        if runner.iter < self.iters:
            runner.logger.info(f'{self.part} is frozen for the first {self.iters} iterations')

        def discard(optimizer, args, kwargs) -> None:
            if runner.iter < self.iters:
                for parameter in parameters:
                    parameter.grad = None

        self._handle = runner.optim_wrapper.optimizer.register_step_pre_hook(discard)

    def after_train(self, runner) -> None:
        """Leave the optimizer as it was."""
        assert self._handle is not None
        self._handle.remove()
