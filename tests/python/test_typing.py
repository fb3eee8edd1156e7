"""What type checkers read of the package: mypy on a program that is right and on one that is not, and the stub against
the module that it describes."""

import ast
import pathlib
import subprocess
import sys

import pytest

import coluber

pytest.importorskip("mypy", reason="mypy is not installed")
PACKAGE = pathlib.Path(coluber.__file__).parent

RIGHT = '''
from typing import List, Optional, Tuple

import coluber
from coluber import ops

model: coluber.Model = coluber.Model.create("tiny", seed=1, tokenizer="bytes")
config: coluber.ModelConfig = model.config
width: int = config.d_model
state: coluber.State = model.make_state(2)
layer: coluber.LayerState = state.layers[0]
conv: coluber.Array = layer.conv
shape: Tuple[int, ...] = conv[0, ..., ::2].shape
for row in conv:
    print(row)
same: bool = state == state.fork()
tokenizer: Optional[coluber.Tokenizer] = model.tokenizer
assert tokenizer is not None
ids: List[int] = tokenizer.encode("text", add_bos=False)
text: bytes = tokenizer.decode_bytes(ids)
begin: Optional[int] = tokenizer.bos_id
bpe: coluber.Tokenizer = coluber.Tokenizer.train(texts=["a", "b"], vocab_size=300)
result: coluber.Generation = model.generate("Once", max_tokens=3, greedy=True).result
written: str = result.text
session: coluber.Session = model.session(seed=7)
token: int = session.next()
loss: coluber.LossSum = model.evaluate([[1, 2]])
grads: ops.LinearGrads = ops.linear_backward([[1.0]], [[1.0]], [[1.0]])
run: coluber.TrainingRun = coluber.train("book.txt", max_steps=2)
'''

# Each line of WRONG with the word that mypy has for it.
WRONG = {
    "coluber.Array().shape + 1": "operator",
    "coluber.Model.load(3)": "arg-type",
    "coluber.Model.create('tiny').generat('x')": "attr-defined",
    "coluber.Tokenizer.bytes().encode('x', add_boss=True)": "call-arg",
    "coluber.Model.create('tiny').make_state('2')": "arg-type",
    "coluber.State().layers[0].convolution": "attr-defined",
    "coluber.Model.create('tiny').generate('x', max_tokens='3')": "arg-type",
    "coluber.set_num_threads('2')": "arg-type",
    "coluber.ModelConfig(d_model='64', n_layer=1, vocab_size=3)": "arg-type",
}


def check(folder, program, name="program.py"):
    """Exit code of mypy --strict and its words on `program`, a module that uses the installed package."""
    (folder / name).write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), name],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_a_program_that_is_right_is_accepted(tmp_path):
    code, said = check(tmp_path, RIGHT)
    assert code == 0, said


def test_mistakes_are_found(tmp_path):
    code, said = check(tmp_path, "\n".join(["import coluber", *WRONG]))
    assert code == 1
    for number, (line, word) in enumerate(WRONG.items(), start=2):
        found = [one for one in said.splitlines() if one.startswith(f"program.py:{number}: error:")]
        assert any(one.endswith(f"[{word}]") for one in found), (line, found)


def names_of(body):
    """What a stub's module or class defines, without what it imports; properties and overloads once."""
    names = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


def public(names):
    return {name for name in names if not name.startswith("_")}


def test_the_stub_has_every_name_of_the_module_and_no_other():
    from coluber import _native

    tree = ast.parse((PACKAGE / "_native.pyi").read_text())
    assert public(names_of(tree.body)) == public(vars(_native))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(classes) >= 8
    for node in classes:
        members = vars(getattr(_native, node.name))
        found = public(names_of(node.body))
        assert found - {"train"} == public(members) - {"train"}, node.name  # Tokenizer.train is made in Python
        for name in ("__len__", "__getitem__", "__iter__", "__eq__", "__dlpack__"):
            assert (name in members) == (name in names_of(node.body)), (node.name, name)
    assert coluber.Tokenizer.train


def test_the_stub_is_right_in_itself(tmp_path):
    code, said = check(tmp_path, (PACKAGE / "_native.pyi").read_text(), "program.pyi")
    lines = [line for line in said.splitlines() if "[type-arg]" not in line and "[empty-body]" not in line]
    assert not lines, "\n".join(lines)


def test_lazy_names_are_told_to_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {(f".{one.module or ''}", one.names[0].name, one.names[0].asname) for one in block.body}
    lazy = {(module, name, name) for name, module in coluber._LAZY.items()}
    assert told == lazy | {(".", name, name) for name in coluber._MODULES}
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_native.pyi").exists()
