"""Strategy that shards a model over the ranks (FSDP, arXiv:2304.11277), for mmengine's FlexibleRunner."""

from collections import OrderedDict

import torch
from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from mmssl.checkpoint import MatchReport, MismatchError, strip_module
from mmssl.engine.optim import LARS
from mmssl.layers.transformer import TransformerBlock
from mmssl.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """Fully sharded training that starts, decays weights and resumes as an unsharded run does.

    All ranks start from the weights of the first. Parameter groups are made from the whole model: mmengine
    makes them after sharding, when every parameter is a flat vector, so that no rule by dimension applies.
    Checkpoints are whole, like those of an unsharded run, and written by the first rank; mmengine's cannot be
    resumed with torch 2.1 and later.

    Args:
        model_wrapper: Arguments of mmengine's MMFullyShardedDataParallel. Without ``auto_wrap_policy`` every
            TransformerBlock is a unit: a policy by size may divide a part that is used other than by its
            ``forward``, such as MAE's encoder.
        state_dict_cfg: 'full', the only value.
        **kwargs: Passed on to mmengine's FSDPStrategy.

    Raises:
        ValueError: Sharded checkpoints are requested; the model has no transformer blocks, and there is no
            ``auto_wrap_policy``; the optimizer or the gradient clipping needs whole parameters.
    """

    # an attribute of mmengine's strategy
    model_wrapper: dict | None

    def __init__(self, *, model_wrapper: dict | None = None, state_dict_cfg: str = 'full', **kwargs):
        if state_dict_cfg != 'full':
            raise ValueError(
                f'state_dict_cfg={state_dict_cfg!r}: mmssl.FSDPStrategy writes whole checkpoints, '
                "state_dict_cfg='full'"
            )
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if not torch.cuda.is_available():
            # offloading to the CPU copies nothing that is there already, and torch then frees the original
            self.state_dict_config = FullStateDictConfig(rank0_only=True, offload_to_cpu=False)
            self.optim_state_dict_config = FullOptimStateDictConfig(rank0_only=True, offload_to_cpu=False)
        self._optim_wrapper: OptimWrapper | None = None

    def prepare(self, model, *, optim_wrapper=None, **kwargs):
        """Prepare as mmengine does; keep the optimizer's settings until just before the model is sharded."""
        self._optim_settings = optim_wrapper
        return super().prepare(model, optim_wrapper=optim_wrapper, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model.to(get_device())  # the optimizer takes its precision from where the parameters are
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if isinstance(self._optim_settings, dict):
            settings = dict(self._optim_settings)
            if settings.get('type') == 'mmssl.AmpOptimWrapper':
                # in float16 the ranks have to agree that a step has overflowed
                settings.setdefault('use_fsdp', True)
            self._optim_wrapper = wrapper = super().build_optim_wrapper(settings, model)
            self._refuse_what_needs_whole_parameters(wrapper)
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            self._group_names = [
                [names[id(parameter)] for parameter in group['params']]
                for group in wrapper.optimizer.param_groups
            ]
        self.model_wrapper = wrapping = dict(self.model_wrapper or {}, use_orig_params=True)
        if 'auto_wrap_policy' not in wrapping:
            if not any(isinstance(module, TransformerBlock) for module in model.modules()):
                raise ValueError(
                    f'{type(model).__name__} has no transformer block to shard by; choose what to shard with '
                    "strategy.model_wrapper.auto_wrap_policy=dict(type='torch.distributed.fsdp.wrap."
                    "size_based_auto_wrap_policy', min_num_params=10000000)"
                )
            wrapping['auto_wrap_policy'] = ModuleWrapPolicy({TransformerBlock})
        _copy_from_first_rank(model)
        return super()._wrap_model(model)

    @staticmethod
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
        if wrapper.clip_grad_kwargs and getattr(wrapper, 'grad_name', '') == 'grad_norm':
            raise ValueError(
                'optim_wrapper.clip_grad takes the norm of whole gradients, of which a rank holds a part '
                '(FSDP); '
                "clip by value (type='value'), or train without FSDP"
            )

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None):
        """Return the wrapper built for the whole model, with the sharded parameters in its groups."""
        if self._optim_wrapper is None:
            raise ValueError('mmssl.FSDPStrategy builds the optimizer itself; give optim_wrapper as a dict')
        assert model is not None
        sharded = {_bare_name(name): parameter for name, parameter in model.named_parameters()}
        for group, names in zip(self._optim_wrapper.optimizer.param_groups, self._group_names, strict=True):
            group['params'] = [sharded[name] for name in names]
        return self._optim_wrapper

    def optim_state_dict(self) -> dict:
        """Return the whole optimizer's state on the first rank, {} on the others; all ranks take part."""
        wrapper = self.optim_wrapper
        state = FullyShardedDataParallel.optim_state_dict(self.model, wrapper.optimizer)
        if state:
            extra = wrapper.state_dict().items()
            state.update({key: value for key, value in extra if key not in ('state', 'param_groups')})
        return state

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this rank's part of a state from :meth:`optim_state_dict`.

        Raises:
            ValueError: The state is of an unsharded run, whose parameters have indices instead of names.
        """
        first = next((name for group in state_dict['param_groups'] for name in group['params']), '')
        if not isinstance(first, str):
            raise ValueError(
                'the checkpoint is of a run without FSDP, whose optimizer cannot be sharded; start from its '
                'weights '
                'with load_from, or resume it without FSDP'
            )
        extra = {key: value for key, value in state_dict.items() if key not in ('state', 'param_groups')}
        whole = dict(state=state_dict['state'], param_groups=state_dict['param_groups'])
        part = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer, whole
        )
        self.optim_wrapper.load_state_dict({**part, **extra})

    def load_model_state_dict(self, state_dict: dict, *, strict: bool = False, revise_keys=None) -> None:
        """Load whole weights into the sharded model.

        Raises:
            MismatchError: Nothing matched, a shape differs, or ``strict`` is set and not everything matched.
        """
        state_dict = OrderedDict(strip_module(state_dict))
        report = MatchReport(
            'the checkpoint',
            matched=[name for name in self._shapes if name in state_dict],
            missing=[name for name in self._shapes if name not in state_dict],
            unexpected=[name for name in state_dict if name not in self._shapes],
            mismatched=[
                (name, tuple(value.shape), self._shapes[name])
                for name, value in state_dict.items()
                if tuple(value.shape) != self._shapes.get(name, tuple(value.shape))
            ],
        )
        if not report.matched or report.mismatched or (strict and not report.complete):
            raise MismatchError(
                f'the weights do not fit the sharded model; give those of the same architecture: {report}'
            )
        self.model.load_state_dict(state_dict, strict=False)
        print_log(str(report), logger='current')


def _bare_name(name: str) -> str:
    """Return a parameter's name without the marks of the wrappers around it."""
    return name.replace('_fsdp_wrapped_module.', '').replace('_checkpoint_wrapped_module.', '')


def _copy_from_first_rank(model: nn.Module) -> None:
    """Copy the first rank's parameters and buffers to all; ranks seed their generators differently."""
    if not torch.distributed.is_initialized():
        raise ValueError(
            'FSDP shards a model over several processes: start it with tools/dist_train.sh, or set '
            'strategy=None'
        )
    for tensor in model.state_dict().values():
        sent = tensor.detach().contiguous()
        torch.distributed.broadcast(sent, src=0)
        with torch.no_grad():
            tensor.copy_(sent)
