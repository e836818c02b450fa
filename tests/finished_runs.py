"""What finished runs leave in a process: mmengine keeps loggers, visualizers and scopes by name."""


def forget() -> None:
    """Drop them: a run of the same name that starts in the same second would write through them."""
    from mmengine.utils.manager import ManagerMixin

    kinds = [ManagerMixin]
    while kinds:
        kind = kinds.pop()
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()
