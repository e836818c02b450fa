"""Strategy that shards a model over the ranks (FSDP, arXiv:2304.11277), for mmengine's FlexibleRunner."""

import functools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from mmssl.checkpoint import MatchReport, MismatchError, load_matching, strip_module
from mmssl.engine.compiling import blocks_of
from mmssl.engine.launch import device_settings
from mmssl.engine.optim import LARS
from mmssl.layers.distributed import whole
from mmssl.registry import STRATEGIES

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """Fully sharded training that starts, decays weights and resumes as an unsharded run does.

    It uses ``torch.distributed.fsdp.fully_shard`` (FSDP2), where mmengine's uses FullyShardedDataParallel.
    Parameters keep their names and shapes, so that the optimizer has the groups of an unsharded run. All
    ranks start from the weights of the first. Checkpoints are whole, in the layout of an unsharded run, are
    written by the first rank, and can be resumed with or without sharding, on any number of ranks.

    Args:
        units: Names of the module classes whose instances are gathered and freed one at a time; None for the
            blocks that modules name in ``COMPILED_BLOCKS``, such as transformer blocks. What lies outside of
            them stays gathered from the forward to the backward pass.
        mixed_precision: Arguments of ``torch.distributed.fsdp.MixedPrecisionPolicy``, with dtypes by name,
            such as ``dict(param_dtype='bfloat16', reduce_dtype='float32')``, which gathers half the bytes.
            The parameters that the optimizer updates keep their own dtype. None: everything in that dtype.
        reshard_after_forward: Whether a unit is freed after its forward pass and gathered again for the
            backward pass; False takes more memory and less time.
        activation_checkpointing: Whether units compute their activations again in the backward pass.
        state_dict_cfg: 'full', the only value.
        model_wrapper: None, the only value: an argument of FullyShardedDataParallel.
        **kwargs: Passed on to mmengine's FSDPStrategy.

    Raises:
        ValueError: Sharded checkpoints are requested; the model has no ``units``; a dtype is unknown; or the
            optimizer needs whole parameters.
    """

    def __init__(
        self,
        *,
        units: Sequence[str] | None = None,
        mixed_precision: dict | None = None,
        reshard_after_forward: bool = True,
        activation_checkpointing: bool = False,
        state_dict_cfg: str = 'full',
        model_wrapper: dict | None = None,
        **kwargs,
    ):
        if state_dict_cfg != 'full':
            raise ValueError(
                f'state_dict_cfg={state_dict_cfg!r}: mmssl.FSDPStrategy writes whole checkpoints, '
                "state_dict_cfg='full'"
            )
        if model_wrapper is not None:
            raise ValueError(
                f'model_wrapper={model_wrapper!r}: mmssl.FSDPStrategy shards with fully_shard, without a '
                "wrapper; give units=['CLASS'] for auto_wrap_policy, reshard_after_forward=False for "
                'SHARD_GRAD_OP, and mixed_precision by the names of the dtypes'
            )
        if not isinstance(activation_checkpointing, bool):
            raise ValueError(
                f'activation_checkpointing={activation_checkpointing!r}: give True to recompute the '
                'activations of all units, or False'
            )
        super().__init__(state_dict_cfg=state_dict_cfg, **kwargs)
        self.units = (units,) if isinstance(units, str) else units
        self.mixed_precision = _policy(mixed_precision or {})
        self.reshard_after_forward = reshard_after_forward
        self.recomputes_units = activation_checkpointing

    def _setup_distributed(self, launcher: str = 'pytorch', backend: str = 'nccl', **kwargs) -> None:
        super()._setup_distributed(launcher, backend, **{**device_settings(launcher, backend), **kwargs})

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model.to(get_device())
        _copy_from_first_rank(model)
        units = self._units_of(model)
        mesh = init_device_mesh(get_device(), (torch.distributed.get_world_size(),))
        if self.recomputes_units:
            for unit in units:
                unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)
        for unit in reversed(units):  # a part before the whole
            fully_shard(
                unit,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                mp_policy=self.mixed_precision,
            )
        fully_shard(model, mesh=mesh, mp_policy=self.mixed_precision)
        return model

    def _units_of(self, model: nn.Module) -> list[nn.Module]:
        if self.units is None:
            blocks = {id(block) for module in model.modules() for block in blocks_of(module)}
            units = [module for module in model.modules() if id(module) in blocks]
        else:
            units = [module for module in model.modules() if type(module).__name__ in self.units]
        if not units:
            names = ' or '.join(self.units or ['blocks'])
            raise ValueError(
                f'{type(model).__name__} has no {names} to shard by; name the classes of its large parts: '
                "strategy.units=['CLASS']"
            )
        return units

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None):
        """Return the wrapper of an optimizer that updates this rank's part of the parameters."""
        if not isinstance(optim_wrapper, dict):
            raise ValueError('mmssl.FSDPStrategy builds the optimizer itself; give optim_wrapper as a dict')
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        _refuse_what_needs_whole_parameters(wrapper)
        return wrapper

    def model_state_dict(self) -> dict:
        """Return the whole model's state on the first rank, {} on the others; all ranks take part."""
        return _on_first_rank(self.model.state_dict())

    def optim_state_dict(self) -> dict:
        """Return the whole optimizer's state on the first rank, {} on the others; all ranks take part."""
        state = self.optim_wrapper.state_dict()
        state['state'] = {index: _on_first_rank(state['state'][index]) for index in sorted(state['state'])}
        return state if is_main_process() else {}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this rank's part of the state of an optimizer, of a run with or without sharding.

        Raises:
            MismatchError: The state has other parameters than this optimizer.
        """
        groups = self.optim_wrapper.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group['params']]
        state_dict = self._with_indices(state_dict, parameters)
        unknown = [index for index in state_dict['state'] if not 0 <= index < len(parameters)]
        if unknown:
            raise MismatchError(
                f'the optimizer of the checkpoint has more than the {len(parameters)} parameters of this '
                'one; resume with the config of that run, or start from its weights with load_from'
            )
        state = {
            index: {key: _sharded_like(parameters[index], value) for key, value in values.items()}
            for index, values in state_dict['state'].items()
        }
        self.optim_wrapper.load_state_dict({**state_dict, 'state': state})

    def _with_indices(self, state_dict: dict, parameters: list[nn.Parameter]) -> dict:
        """Return the state with parameters by index, which mmssl 0.1 has saved by name."""
        groups = state_dict['param_groups']
        if not any(isinstance(name, str) for group in groups for name in group['params']):
            return state_dict
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        indices = {names[id(parameter)]: index for index, parameter in enumerate(parameters)}
        unknown = [name for group in groups for name in group['params'] if name not in indices]
        if unknown:
            raise MismatchError(
                f'the optimizer of the checkpoint has parameters that this one lacks, such as {unknown[0]}; '
                'resume with the config of that run, or start from its weights with load_from'
            )
        return {
            **state_dict,
            'state': {indices[name]: values for name, values in state_dict['state'].items()},
            'param_groups': [
                {**group, 'params': [indices[name] for name in group['params']]} for group in groups
            ],
        }

    def load_model_state_dict(self, state_dict: dict, *, strict: bool = False, revise_keys=None) -> None:
        """Load this rank's part of whole weights, with the checks of :func:`mmssl.checkpoint.load_matching`.

        Raises:
            MismatchError: Nothing matched, a shape or the kind of a dtype differs, or ``strict`` is set and
                not everything matched.
        """
        weights = OrderedDict(strip_module(state_dict))
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        report = MatchReport(
            'the checkpoint',
            matched=[name for name in shapes if name in weights],
            missing=[name for name in shapes if name not in weights],
            mismatched=[
                (name, tuple(weights[name].shape), shape)
                for name, shape in shapes.items()
                if isinstance(weights.get(name), Tensor) and tuple(weights[name].shape) != shape
            ],
        )
        if report.mismatched:
            raise MismatchError(
                f'the weights do not fit the sharded model; give those of the same architecture: {report}'
            )
        parameters = dict(self.model.named_parameters())
        for name, value in weights.items():
            if name in parameters:
                weights[name] = _sharded_like(parameters[name], value)
        load_matching(self.model, weights, strict=strict)


def _policy(settings: dict) -> MixedPrecisionPolicy:
    settings = dict(settings)
    for name in ('param_dtype', 'reduce_dtype', 'output_dtype'):
        dtype = settings.get(name)
        if dtype is not None:
            settings[name] = DTYPES.get(str(dtype).removeprefix('torch.'))
            if settings[name] is None:
                raise ValueError(f'mixed_precision.{name}={dtype!r}; give one of {", ".join(DTYPES)}')
    try:
        return MixedPrecisionPolicy(**settings)
    except TypeError as error:
        raise ValueError(
            f'mixed_precision={settings!r}: {error}; it takes param_dtype, reduce_dtype, output_dtype and '
            'cast_forward_inputs'
        ) from None


def _refuse_what_needs_whole_parameters(wrapper) -> None:
    if not isinstance(wrapper, OptimWrapper):
        raise ValueError(
            f'mmssl.FSDPStrategy takes one optimizer, not a {type(wrapper).__name__}; train without FSDP'
        )
    if isinstance(wrapper.optimizer, LARS) or 'LARS' in type(wrapper.optimizer).__name__:
        raise ValueError(
            'LARS takes norms of whole parameters, of which a rank holds a part (FSDP); '
            'use AdamW, or train without FSDP'
        )


def _on_first_rank(values: dict) -> dict:
    """Return whole tensors on the CPU on the first rank, {} on the others; all ranks take part."""
    first = is_main_process()
    result = {}
    for key, value in values.items():
        value = whole(value)  # one at a time: the whole model may not fit
        if first:
            result[key] = value.detach().cpu() if isinstance(value, Tensor) else value
    return result


def _sharded_like(parameter: Tensor, value):
    """Return this rank's part of a value of the parameter's shape; others are returned as they are."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    # every rank has read the file
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _copy_from_first_rank(model: nn.Module) -> None:
    """Copy the first rank's parameters and buffers to all; ranks seed their generators differently."""
    if not torch.distributed.is_initialized():
        raise ValueError(
            'FSDP shards a model over several processes: start it with tools/dist_train.sh, or set '
            'strategy=None'
        )
    # not the state dict: its counters are on the CPU, where NCCL cannot read them
    for tensor in (*model.parameters(), *model.buffers()):
        sent = tensor.detach().contiguous()
        torch.distributed.broadcast(sent, src=0)
        with torch.no_grad():
            tensor.copy_(sent)
