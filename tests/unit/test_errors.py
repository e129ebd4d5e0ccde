"""Exit codes of the error classes. Expected values: the table of exit codes that scripts rely on."""

from ecocli import errors
from ecocli.errors import EcoError


def _subclasses(base: type[EcoError]) -> list[type[EcoError]]:
    return [cls for child in base.__subclasses__() for cls in (child, *_subclasses(child))]


def test_exit_codes__of_all_classes__are_unique() -> None:
    own = [cls for cls in _subclasses(EcoError) if cls.__module__ == errors.__name__]
    codes = [cls.exit_code for cls in own]
    assert len(own) == 4
    assert len(set(codes)) == len(codes)


def test_exit_codes__of_each_class__are_the_documented_ones() -> None:
    assert {
        errors.UsageError: 2,
        errors.DataError: 3,
        errors.ArtifactError: 4,
        errors.InterruptedRunError: 5,
    } == {
        cls: cls.exit_code
        for cls in (errors.UsageError, errors.DataError, errors.ArtifactError, errors.InterruptedRunError)
    }
