"""The commands by name, in the order in which ``mmssl --help`` shows them."""

import importlib
from types import ModuleType

COMMANDS = {
    'init': 'mmssl.commands.init',
    'train': 'mmssl.commands.train',
    'test': 'mmssl.commands.test',
    'knn': 'mmssl.commands.knn',
    'linear': 'mmssl.commands.linear',
    'finetune': 'mmssl.commands.finetune',
    'predict': 'mmssl.commands.predict',
    'score': 'mmssl.commands.score',
    'attention': 'mmssl.commands.attention',
    'reconstruct': 'mmssl.commands.reconstruct',
    'embedding': 'mmssl.commands.embedding',
    'visualize': 'mmssl.commands.visualize',
    'embed': 'mmssl.commands.embed',
    'select': 'mmssl.commands.select',
    'duplicates': 'mmssl.commands.duplicates',
    'search': 'mmssl.commands.search',
    'segment': 'mmssl.commands.segment',
    'annotate': 'mmssl.commands.annotate',
    'loop': 'mmssl.commands.loop',
    'demo': 'mmssl.commands.demo',
    'tokenizer': 'mmssl.commands.tokenizer',
    'convert': 'mmssl.commands.convert',
    'export': 'mmssl.commands.export',
    'list': 'mmssl.commands.list',
    'print-config': 'mmssl.commands.print_config',
    'check-data': 'mmssl.commands.check_data',
    'stats': 'mmssl.commands.stats',
    'pack': 'mmssl.commands.pack',
    'frames': 'mmssl.commands.frames',
    'report': 'mmssl.commands.report',
    'demo-data': 'mmssl.commands.demo_data',
    'doctor': 'mmssl.commands.doctor',
    'completion': 'mmssl.commands.completion',
}
# commands that run a network; see mmssl.ops.fast.linear
COMPUTING = {
    'train',
    'finetune',
    'test',
    'knn',
    'linear',
    'predict',
    'attention',
    'reconstruct',
    'embedding',
    'embed',
    'select',
    'search',
    'segment',
    'annotate',
    'loop',
    'demo',
    'tokenizer',
}
# command -> model of the package for a command line without CONFIG and CHECKPOINT
DEFAULT_MODELS = {
    'knn': 'dino-mini',
    'linear': 'dino-mini',
    'attention': 'dino-mini',
    'embedding': 'dino-mini',
    'embed': 'dino-mini',
    'reconstruct': 'mae-mini',
}
# headings of `mmssl --help`, by the first command below each
HEADINGS = {
    'init': 'train and evaluate',
    'attention': 'visualize',
    'embed': 'choose by features',
    'segment': 'segment by prompts',
    'tokenizer': 'weights',
    'list': 'configs, data, runs',
}


def command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(COMMANDS[name])
