"""What is said of a network, its weights and its space before a search starts."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.experiment.idle import idle_notes
from orchestrator.preparation import checks
from orchestrator.preparation.checks import check_network
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import LatencyTable, LayerTime
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.trial import CascadeTrial


class Transformer(nn.Module):
    """A convolution whose channels a LayerNorm looks at together, and a hidden layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.scores = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.scores((x + self.hidden(self.norm(x))).mean(1))


class Few(nn.Module):
    """Gives three scores whatever is asked."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.scores = nn.Linear(8, 3)

    def forward(self, x):
        return self.scores(self.layers(x))


class FixedFlatten(nn.Module):
    """Takes images of 32 pixels and no others."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.scores = nn.Linear(8 * 32 * 32, num_classes)

    def forward(self, x):
        return self.scores(self.layers(x))


class Pair(Few):
    """Gives its scores twice, as a tuple."""

    def forward(self, x):
        return super().forward(x), super().forward(x)


@pytest.fixture(scope="module")
def data():
    dark, light = (
        ImageSet(images_NCHW=torch.full((256, 3, 16, 16), shade, dtype=torch.uint8), labels_N=torch.arange(256) % 4)
        for shade in (0, 255)
    )
    return DataSplits(train=dark, val=light, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c", "d"))


def experiment(model, **others):
    return parse_experiment({"model": model} | others)


def own(network, monkeypatch):
    monkeypatch.setattr("torchvision.own_network_of_this_test", network, raising=False)
    return {"name": "torchvision:own_network_of_this_test"}


def test_a_sound_network_gives_a_look_that_refuses_what_it_cannot_be_pruned_to(data):
    checked = check_network(experiment({"name": "vgg-small", "width": 0.25}), data)
    look = checked.look
    assert checked.notes == ()
    assert look(CascadeConfig(macs_kept=(0.5, 0.1))) is None
    assert "must be at least" in look(CascadeConfig(macs_kept=(0.5, 1e-5))).reason


def test_sizes_below_what_can_be_removed_are_refused(data, monkeypatch):
    model = own(Transformer, monkeypatch)
    check_network(experiment(model, space={"student_macs_kept": [0.6, 0.7]}), data)
    with pytest.raises(InputError, match=r"student_macs_kept starts at 0\.02, but .* layer norm is a LayerNorm"):
        check_network(experiment(model), data)


def test_sizes_in_latency_are_looked_at_once_layers_are_timed(data):
    model = {"name": "vgg-small", "width": 0.25}
    others = {"cascade": {"pruning": {"size_in": "latency"}}, "space": {"student_macs_kept": [0.3, 0.5]}}
    layers = {f"features.{index}": LayerTime(fixed_ms=0.0, output_ms=1.0, product_ms=0.0) for index in (0, 3, 7)}

    def table(fixed_ms):
        return LatencyTable(layers=layers, fixed_ms=fixed_ms, full_ms=1.0, num_threads=1, batch_size=1)

    checked = check_network(experiment(model, **others), data)
    assert checked.look(CascadeConfig(macs_kept=(1e-5,))) is None  # nothing is known yet
    look = checked.timed(table(0.0))  # 32 outputs, of which 3 stay at least
    in_latency = Pruning(size_in="latency")
    assert look(CascadeConfig(macs_kept=(0.5, 0.1), pruning=in_latency)) is None
    assert "must be at least 0.0919" in look(CascadeConfig(macs_kept=(0.5, 0.05), pruning=in_latency)).reason
    assert look(CascadeConfig(macs_kept=(0.5, 0.05))) is None  # of the MACs
    with pytest.raises(
        InputError, match=r"starts at 0\.3, but with each .* 0\.547 of the latency is left; start above"
    ):
        checked.timed(table(32.0))
    with pytest.raises(InputError, match="no parameter 'size'"):
        check_network(experiment(model, **others, starting_points=[{"size": 1}]), data)


def test_sizes_in_latency_of_a_space_alone_are_refused(data, monkeypatch):
    def space(trial, defaults):
        return CascadeConfig(macs_kept=(trial.suggest_float("size", 0.5, 0.6),), pruning=Pruning(size_in="latency"))

    monkeypatch.setattr("torchvision.own_space_of_this_test", space, raising=False)
    with pytest.raises(InputError, match=r"pruning\.size_in is 'latency', but layers are timed only where"):
        check_network(experiment({"name": "vgg-small"}, space="torchvision:own_space_of_this_test"), data)


@pytest.mark.parametrize("key", ["teacher", "cascade.recipe"])
def test_a_recipe_that_does_not_fit_the_classes_is_refused(data, key):
    recipe = {"class_weights": [1, 2, 3]}
    section = {"teacher": recipe} if key == "teacher" else {"cascade": {"recipe": recipe}}
    with pytest.raises(InputError, match=f"^{key}.class_weights has 3 values, but the data has 4 classes"):
        check_network(experiment({"name": "vgg-small"}, **section), data)


def test_rates_that_the_optimiser_would_refuse_in_a_trial_are_refused_before(data):
    recipe = {"optimizer": "adamw", "learning_rate": 0.001}
    with pytest.raises(InputError, match=r"^space\.learning_rate ends where cascade\.recipe\.learning_rate is 0\.2"):
        check_network(
            experiment({"name": "vgg-small"}, cascade={"recipe": recipe}, space={"learning_rate": [0.01, 0.2]}), data
        )


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            {"params": {"at_most": 50}},
            r"params must be at most 50, but with every channel group at its floor \d+ param",
        ),
        ({"macs": {"at_most": 50}}, r"macs must be at most 50, but no level is that keeps"),
        ({"macs_kept": {"at_least": 0.999}}, r"macs_kept must be at least 0.999, but no level is that keeps"),
    ],
)
def test_constraints_that_no_network_can_meet_are_refused_before_anything_runs(data, constraints, message):
    with pytest.raises(InputError, match=f"the space gives no valid cascade in 500 draws; .*constraints: {message}"):
        check_network(experiment({"name": "vgg-small", "width": 0.25}, constraints=constraints), data)


def test_layers_that_are_kept_are_kept(data):
    pruning = {"keep": ["features.*"], "floors": {"features": 4}}
    with pytest.raises(InputError, match=r"no channels that could be removed.*is kept as asked"):
        check_network(experiment({"name": "vgg-small", "width": 0.25}, cascade={"pruning": pruning}), data)
    with pytest.raises(InputError, match=r"pruning\.keep has 'layer9', but no layer is called so"):
        check_network(experiment({"name": "vgg-small"}, cascade={"pruning": {"keep": ["layer9"]}}), data)


def test_weights_that_tell_no_channels_apart_are_refused(data, tmp_path):
    network = build(ModelConfig(name="vgg-small", width=0.25), num_classes=4, in_channels=3)
    nn.init.zeros_(network.classifier.weight)
    torch.save(network.state_dict(), tmp_path / "zero.pt")
    model = {"name": "vgg-small", "width": 0.25, "weights": str(tmp_path / "zero.pt")}
    with pytest.raises(InputError, match=r"zero\.pt, but with it group features\.0 has no saliency"):
        check_network(experiment(model), data)


def test_other_scores_than_classes_are_refused(data, monkeypatch):
    with pytest.raises(InputError, match="gives 3 scores an image, but the data has 4 classes"):
        check_network(experiment(own(Few, monkeypatch), space={"student_macs_kept": [0.5, 0.6]}), data)


@pytest.mark.parametrize("network", [FixedFlatten, "vgg16"])
def test_networks_that_cannot_take_the_images_are_refused(data, monkeypatch, network):
    model = {"name": network, "width": 0.1} if isinstance(network, str) else own(network, monkeypatch)
    reason = "Given input size" if isinstance(network, str) else "mat1 and mat2"
    with pytest.raises(
        InputError,
        match=rf"^model\.name is '{model['name']}', which cannot take images of 3 channels and 16x16 .*"
        rf"{reason}.*data\.image_size",
    ):
        check_network(experiment(model), data)


def test_a_network_that_is_all_frozen_is_refused_unless_its_weights_are_given(data, monkeypatch, tmp_path):
    def frozen(num_classes):
        return Transformer(num_classes).requires_grad_(requires_grad=False)

    model, space = own(frozen, monkeypatch), {"student_macs_kept": [0.6, 0.7]}
    with pytest.raises(InputError, match=r"^all parameters of the network are frozen, .* by model\.weights$"):
        check_network(experiment(model, space=space), data)
    torch.save(frozen(4).state_dict(), tmp_path / "teacher.pt")
    check_network(experiment(model | {"weights": str(tmp_path / "teacher.pt")}, space=space), data)


def test_networks_that_give_no_scores_are_refused(data, monkeypatch):
    with pytest.raises(InputError, match=r"gives tuple for 2 images .* scores of shape \(2, 4\)"):
        check_network(experiment(own(Pair, monkeypatch)), data)


def test_bf16_on_a_processor_that_only_imitates_it_is_said_and_not_refused(data, monkeypatch):
    def notes(**others):
        return check_network(experiment({"name": "vgg-small", "width": 0.25}, **others), data).notes

    bf16 = {"cascade": {"recipe": {"precision": "bf16"}}}
    others = torch.cpu.get_capabilities()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: others | {"avx512_bf16": True})
    assert notes(**bf16) == ()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: others | {"avx512_bf16": False})
    (said,) = notes(**bf16)
    assert said.startswith("cascade.recipe.precision is bf16, but this processor has no avx512_bf16")
    assert notes() == ()
    (said,) = notes(teacher={"precision": "bf16"})
    assert said.startswith("teacher.precision is bf16")
    assert notes(teacher={"precision": "bf16"}, resources={"gpus_per_trial": 0.5}) == ()
    auto = {"gpus_per_trial": "auto"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert notes(teacher={"precision": "bf16"}, resources=auto) == (said,)
    assert notes(teacher={"precision": "bf16"}, resources=auto | {"address": "auto"}) == ()  # not known yet
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert notes(teacher={"precision": "bf16"}, resources=auto) == ()


class InFloat32(nn.Module):
    """Adds its features to others in float32, which takes no bfloat16."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, num_classes)

    def forward(self, x):
        features = self.stem(x)
        nothing = torch.zeros(features.shape, device=x.device)
        return self.head(nothing.index_add(0, torch.arange(len(x), device=x.device), features).mean((2, 3)))


def test_a_network_that_fails_in_the_precision_of_training_is_refused_where_that_is_known(data, monkeypatch):
    network = own(InFloat32, monkeypatch)
    bf16 = {"precision": "bf16"}
    monkeypatch.setattr(checks, "has_kernels_for_bf16", lambda: True)
    for sections in ({"teacher": bf16}, {"cascade": {"recipe": bf16}}):
        with pytest.raises(InputError, match=r"^the network fails in training \(.*, in bf16 on images"):
            check_network(experiment(network, **sections), data)
    check_network(experiment(network), data)
    check_network(experiment(network, teacher=bf16, resources={"gpus_per_trial": 1}), data)
    monkeypatch.setattr(checks, "has_kernels_for_bf16", lambda: False)  # a step would take too long
    check_network(experiment(network, teacher=bf16), data)


def test_nothing_is_said_of_the_recipe_of_a_teacher_that_is_read(data, tmp_path):
    model = {"name": "vgg-small", "width": 0.25, "weights": str(tmp_path / "teacher.pt")}
    network = build(ModelConfig(name="vgg-small", width=0.25), num_classes=4, in_channels=3, seed=0)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    assert check_network(experiment(model, teacher={"execution": "compile"}), data).notes == ()


def test_a_batch_of_all_images_is_said(data):
    def notes(**others):
        return check_network(experiment({"name": "vgg-small", "width": 0.25}, **others), data).notes

    assert notes(teacher={"batch_size": 255}) == ()
    (said,) = notes(teacher={"batch_size": 1000})
    assert said.startswith("teacher.batch_size is 1000, but there are 256 training images: an epoch is one step")
    (said,) = notes(cascade={"recipe": {"batch_size": 256}})
    assert said.startswith("cascade.recipe.batch_size is 256, but there are 256 training images")


def test_compiling_on_a_processor_is_said_and_not_refused(data):
    def notes(**others):
        return check_network(experiment({"name": "vgg-small", "width": 0.25}, **others), data).notes

    compiled = {"cascade": {"recipe": {"execution": "compile"}}}
    (said,) = notes(**compiled)
    assert said.startswith("cascade.recipe.execution is compile, but trials run on a processor")
    assert notes(**compiled, resources={"gpus_per_trial": 0.5}) == ()
    (said,) = notes(teacher={"execution": "compile"})
    assert said.startswith("teacher.execution is compile")


def test_what_stays_whole_and_what_has_no_saliency_yet_is_said(data, monkeypatch):
    (held,) = check_network(
        experiment(own(Transformer, monkeypatch), space={"student_macs_kept": [0.6, 0.7]}), data
    ).notes
    assert held.startswith("1 layer or group of them stays whole, such as hidden.2: ")
    assert "LayerNorm" in held

    def zero_head(num_classes):
        network = build(ModelConfig(name="vgg-small", width=0.25), num_classes=num_classes, in_channels=3)
        nn.init.zeros_(network.classifier.weight)
        return network

    (silent,) = check_network(experiment(own(zero_head, monkeypatch)), data).notes
    assert silent.startswith("6 groups of channels have no saliency at the start, such as features.0")


class Softmaxed(Few):
    """Gives probabilities of four classes."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.layers.insert(0, nn.Conv2d(3, 3, 1))
        self.scores = nn.Sequential(nn.Linear(8, num_classes), nn.Softmax(1))


def test_probabilities_where_logits_are_taken_are_said_and_not_refused(data, monkeypatch):
    model = own(Softmaxed, monkeypatch)
    (said,) = check_network(experiment(model, space={"student_macs_kept": [0.6, 0.7]}), data).notes
    assert said.startswith("the network gives probabilities, as behind a softmax")
    monkeypatch.setattr(DataSplits, "multi_label", True)
    (said,) = check_network(experiment(model, space={"student_macs_kept": [0.6, 0.7]}), data).notes
    assert said.startswith("images may have several classes: what is called accuracy here is their mean average")


class Counts(Softmaxed):
    """Makes a number of how many images there are."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scores = self.scores[0]

    def forward(self, x):
        return self.scores(self.layers(x).reshape(len(x), -1))


def test_files_that_cannot_be_made_of_a_network_are_said_and_not_refused(data, monkeypatch):
    model = own(Counts, monkeypatch)
    (said,) = check_network(experiment(model, space={"student_macs_kept": [0.6, 0.7]}), data).notes
    assert said.startswith("files of the formats onnx, int8 and pt2 cannot be made of the network, native ones can: ")
    assert "must take their number as x.shape[0], not as len(x)" in said
    monkeypatch.setattr("trainables.files.deployment.trace", None)
    check_network(experiment({"name": "vgg-small", "width": 0.25}), data)  # ours can be and are not tried


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_network_that_could_not_be_read_once_it_is_trained_is_refused(data, monkeypatch):
    space = {"student_macs_kept": [0.6, 0.7]}

    def old_weight_norm(num_classes):
        network = Flat(num_classes)
        network.layers[0] = nn.utils.weight_norm(network.layers[0])
        return network

    with pytest.raises(
        InputError, match=r"^model\.name: layer layers\.0 .* computes its weights anew .*remove_weight_norm$"
    ):
        check_network(experiment(own(old_weight_norm, monkeypatch), space=space), data)

    kernels = iter((2, 3))

    def changes(num_classes):
        network = Softmaxed(num_classes)
        network.layers.append(nn.Threshold(1 / next(kernels), 0.0))
        return network

    with pytest.raises(InputError, match=r"could not be read again once .*: it gives other scores"):
        check_network(experiment(own(changes, monkeypatch), space=space), data)


class HidesLayer(Softmaxed):
    """Has a layer in a plain list."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.hidden = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return super().forward(self.hidden[0](x))


def test_layers_in_a_plain_list_are_refused_with_where_they_belong(data, monkeypatch):
    with pytest.raises(
        InputError,
        match=r"it gives other scores; .* layers in a plain list are not; put such .* nn\.ModuleList$",
    ):
        check_network(experiment(own(HidesLayer, monkeypatch), space={"student_macs_kept": [0.6, 0.7]}), data)


class Flat(Few):
    """Has no features at more than one place where channels can go."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scores = nn.Linear(8, num_classes)


MANY_VIEWS = 2**31 // (4 * 256 * 4) + 1  # 256 images of four classes


def test_features_that_cannot_be_learnt_are_refused_whoever_asks_for_them(data, monkeypatch):
    model, message = own(Flat, monkeypatch), "feature_weight is above 0, but no layer of the network reads"
    with pytest.raises(InputError, match=rf"^cascade\.{message}"):
        check_network(experiment(model, cascade={"feature_weight": 1.0}), data)

    def space(trial, defaults):
        return CascadeConfig(macs_kept=(trial.suggest_float("size", 0.6, 0.7),), feature_weight=1.0)

    monkeypatch.setattr("torchvision.own_space_of_this_test", space, raising=False)
    with pytest.raises(InputError, match=rf"the space gives no valid cascade in 500 draws; the last one: {message}"):
        check_network(experiment(model, space="torchvision:own_space_of_this_test"), data)


def test_more_than_can_be_remembered_is_refused_where_a_stage_has_more_epochs(data):
    def check(epochs):
        cascade = {"teacher_views": MANY_VIEWS, "recipe": {"epochs": epochs}}
        return check_network(experiment({"name": "vgg-small"}, cascade=cascade), data)

    with pytest.raises(
        InputError, match=rf"teacher_views is {MANY_VIEWS}, and so many logits of 256 images for 4 class"
    ):
        check(MANY_VIEWS + 1)
    (note,) = check(MANY_VIEWS).notes
    assert "teacher_views" in note


@pytest.mark.parametrize(
    ("settings", "idle", "busy"),
    [
        ({"levels_a_step": 3}, {"num_assistants": [0, 2]}, {"num_assistants": [0, 3]}),
        ({"levels_a_step": 3}, {"num_assistants": [3, 3], "schedule": ["sequential"]}, {"num_assistants": [3, 3]}),
        ({"level_weight_growth": 2}, {"num_assistants": [0, 0]}, {"num_assistants": [0, 1]}),
        ({"epoch_growth": 2}, {}, {"schedule": ["joint", "sequential"]}),
        ({"teacher_every": 2}, {"distillation_weight": [0, 0]}, {"distillation_weight": [0, 0.5]}),
        ({"teacher_views": 2}, {"distillation_weight": [0, 0]}, {}),
        ({"teacher_views": 20}, {}, None),
    ],
)
def test_what_does_nothing_in_any_cascade_is_said(data, settings, idle, busy):
    def notes(space):
        return check_network(experiment({"name": "vgg-small"}, cascade=settings, space=space), data).notes

    ((key, value),) = settings.items()
    (said,) = notes(idle)
    assert said.startswith(f"cascade.{key} is {value}, but does nothing in this search: no ")
    assert busy is None or notes(busy) == ()


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (
            {"starting_points": [{"temperature": 2.0}, {"temperature": 3.0}], "num_trials": 1},
            "starting_points has 2 points, but num_trials is 1: the last is tried only if",
        ),
        ({"stop": {"min_gain": 0.01}}, "stop.min_gain is 0.01, but does nothing without stop.trials_without_gain"),
        (
            {"study": {"warm_start": ["other"]}, "sampler": "random"},
            "study.warm_start does nothing in this search: the sampler random learns nothing of them",
        ),
        (
            {"study": {"warm_start": ["other"]}, "sampler": "nsga2"},
            "study.warm_start does nothing in this search: the sampler nsga2 learns nothing of them",
        ),
        ({"stop": {"min_gain": 0.01, "trials_without_gain": 5}}, None),
        ({"study": {"warm_start": ["other"]}}, None),
    ],
)
def test_what_does_nothing_in_a_search_is_said(settings, note):
    assert [said[: len(note or "")] for said in idle_notes(Experiment(**settings))] == ([] if note is None else [note])


def test_functions_of_the_guide_are_what_a_search_takes(data, monkeypatch, tmp_path):
    guide = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    here = [block for block in blocks if "import timm" not in block]  # which is not installed
    assert len(here) == len(blocks) - 1
    (tmp_path / "of_the_guide.py").write_text("\n".join(here))
    monkeypatch.syspath_prepend(tmp_path)
    checked = check_network(
        experiment(
            {"name": "vgg-small", "width": 0.25},
            space="of_the_guide:space",
            cascade={"pruning": {"saliency": "of_the_guide:scores"}, "recipe": {"epochs": 3}},
        ),
        data,
    )
    assert checked.notes == ()
    trained = CascadeTrial(
        build(ModelConfig(name="vgg-small", width=0.25), num_classes=4, in_channels=3),
        config=CascadeConfig(
            macs_kept=(0.5,),
            recipe=Recipe(epochs=2, batch_size=4, learning_rate=0.01),
            pruning=Pruning(saliency="of_the_guide:scores", num_prunings=1),
        ),
        data=data,
    )
    list(trained.run())
    assert trained.results[0].macs_kept == pytest.approx(0.5, rel=0.02)
