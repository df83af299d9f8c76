"""A method of a user's own file: what is wrong with the class is a sentence, what its code raises names the file."""

from __future__ import annotations

import pytest

from raffm_mpi.errors import UserMistake
from raffm_mpi.methods import Method
from raffm_mpi.methods.custom import load_method, naming

HEAD = "from raffm_mpi.methods import Method\n\nclass Own(Method):\n"
SELECTIONS = "    def selections(self, *_):\n        return []\n"

MISTAKES = {
    "abstract": (HEAD + "    pass\n", "the class 'Own' lacks selections, which every method must have"),
    "a constructor that takes less": (
        HEAD + "    def __init__(self, layout):\n        pass\n" + SELECTIONS,
        "the constructor of class 'Own' must take (layout, seed, price, settings, fits), as that of "
        "raffm_mpi.methods.Method: too many positional arguments",
    ),
    "a constructor that takes more": (
        HEAD + "    def __init__(self, a, b, c, d, e, more):\n        pass\n" + SELECTIONS,
        "missing a required argument: 'more'",
    ),
    "a file that exits": ("raise SystemExit(3)\n", "the file cannot be run: SystemExit: 3"),
    "no such class": ("", "the file has no class 'Own' of raffm_mpi.methods.Method"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_class_that_is_no_method_is_refused_with_its_file_and_name(tmp_path, mistake):
    text, sentence = MISTAKES[mistake]
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(UserMistake) as refused:
        load_method(f"{file}:Own")
    assert str(refused.value).startswith(f"method.name: '{file}:Own': ")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_class_with_the_methods_constructor_or_one_that_takes_anything_is_taken(tmp_path):
    for constructor in ("", "    def __init__(self, *arguments):\n        super().__init__(*arguments)\n"):
        file = tmp_path / "own.py"
        file.write_text(HEAD + constructor + SELECTIONS)
        assert issubclass(load_method(f"{file}:Own"), Method)


@pytest.mark.parametrize("error", [KeyError("width"), OSError("width"), SystemExit("width")])
def test_what_a_users_code_raises_is_a_fault_that_names_the_file_and_a_mistake_stays_one(error):
    sentence = rf"^method 'own\.py:Own': {type(error).__name__}: '?width"
    with pytest.raises(RuntimeError, match=sentence) as fault, naming("own.py:Own"):
        raise error
    assert fault.value.__cause__ is error
    with pytest.raises(UserMistake, match="seven"), naming("own.py:Own"):
        raise UserMistake("seven is odd")
