"""What Pellucid raises, and why.

```
PellucidError
├── ConfigError (ValueError)          config.json says something impossible or not implemented
├── WeightsError (ValueError)         tensors are missing, unexpected, of another shape, or the file is broken
├── TokenizerError (ValueError)       tokenizer files are broken, or do not belong to the model
├── TemplateError (ValueError)        a chat template is broken, refuses a conversation, or does too much
├── InputError (ValueError)           a value given to a call is not one it can work with
│   └── ShapeError (IndexError)       a tensor has the wrong number of dimensions
├── ArgumentError (TypeError)         a keyword argument that does not exist
├── NonFiniteError (ArithmeticError)  a result is NaN or infinite
├── MissingPackageError (ImportError) an optional package is not installed
├── UnsafeFileError (ValueError)      a file that a stranger's folder may not name or contain
├── SaveError (OSError)               a folder could not be written; what was there before still is
└── HubError (OSError)                a model could not be brought to this machine
    ├── NotFoundError                 no such folder, repository or revision
    ├── MissingFileError              the repository or folder exists, the file does not
    ├── GatedError                    access must be asked for on the model's page
    ├── BadTokenError                 the access token is wrong or expired
    ├── OfflineError                  not cached, and the network may not or can not be used
    └── DamagedDownloadError          the bytes that came are not the bytes that were promised
```

Every class also inherits the built-in exception it resembles, so `except ValueError` keeps working. Every message says
what was found, what was expected and what to do next.
"""

from collections.abc import Iterable


class PellucidError(Exception):
    """The root of every exception that Pellucid raises on purpose."""


class ConfigError(PellucidError, ValueError):
    """A configuration is impossible, contradictory, or asks for something that is not implemented."""


class WeightsError(PellucidError, ValueError):
    """The tensors of a checkpoint do not fit the model, or their file is broken."""


class TokenizerError(PellucidError, ValueError):
    """Tokenizer files are broken, incomplete, or do not belong to the model."""


class TemplateError(PellucidError, ValueError):
    """A chat template is broken, refuses the conversation, or does more than any conversation takes."""


class InputError(PellucidError, ValueError):
    """A value given to a call is not one it can work with."""


class ShapeError(InputError, IndexError):
    """A tensor has the wrong number of dimensions."""


class ArgumentError(PellucidError, TypeError):
    """A keyword argument does not exist."""


class NonFiniteError(PellucidError, ArithmeticError):
    """A result is NaN or infinite."""


class MissingPackageError(PellucidError, ImportError):
    """An optional package is not installed; the message names the install line."""


class UnsafeFileError(PellucidError, ValueError):
    """A folder names or contains a file that is not plain data inside that folder."""


class SaveError(PellucidError, OSError):
    """A folder could not be written; what was there before still is."""


class HubError(PellucidError, OSError):
    """A model could not be brought to this machine."""


class NotFoundError(HubError):
    """No such folder, repository or revision."""


class MissingFileError(HubError, FileNotFoundError):
    """The repository or folder exists, the file does not."""


class GatedError(HubError, PermissionError):
    """Access to the repository must be asked for on its page."""


class BadTokenError(HubError, PermissionError):
    """The access token is wrong or expired."""


class OfflineError(HubError, ConnectionError):
    """The files are not cached, and the network may not or can not be used."""


class DamagedDownloadError(HubError):
    """The bytes that came are not the bytes that were promised."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, or the few nearest, or an empty string.

    At the end of a sentence: `f"There is no {name!r}{did_you_mean(name, known) or '.'}"`.
    """
    from difflib import get_close_matches

    nearest = get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise for keyword arguments that do not exist, all at once, each with the nearest name.

    Raises:
        ArgumentError: if any of `given` is not in `known`.
    """
    known = list(known)
    unknown = [f"{name!r}{did_you_mean(name, known)}" for name in given if name not in known]
    if unknown:
        said = f"{where} has no argument {', nor '.join(unknown)}"
        raise ArgumentError(f"{said}{'' if said[-1] == '?' else '.'} It takes: {', '.join(sorted(known))}.")
