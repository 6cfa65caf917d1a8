"""The type checker of the tests: beartype, with whole numbers where a float is asked for, as Python's typing has it."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
