"""Sparse autoencoders: what they compute, how they are trained and read, what their statistics mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from personalab import tiers
from personalab.lm.chat import as_messages
from personalab.lm.interventions import applied
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.sae.files import (
    FOLDER,
    GEMMA_SCOPE,
    SaeError,
    TopKSAE,
    find_sae,
    keep_largest,
    load_sae,
    metadata,
    sae_block,
    save_sae,
    tier_folder,
)
from personalab.sae.statistics import (
    Splice,
    dead_features,
    explained_variance,
    l0,
    max_activating,
    read_text,
    spliced_losses,
    squared_errors,
    token_activations,
)
from personalab.studies import sae_training
from personalab.studies.sae_training import SaeSettings, train_sae

D, N = 32, 64
TEXTS = [
    "The sea is deep and the moon is far.",
    as_messages("You are a pirate.", "What about the city?", "I would say that a good friend tells the truth."),
    as_messages(None, "What about the sea?", "It is deep."),
]
SMALL = SaeSettings(n_features=N, k=4, epochs=12, batch=64, learning_rate=5e-3, dead_after=500, aux_k=16)


def random_sae(seed: int = 0, k: int = 6, block: int = 1) -> TopKSAE:
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(D, N, k, {"hook_name": f"blocks.{block}.hook_resid_post"})
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    sae.W_dec.data = F.normalize(sae.W_dec.data, dim=1)
    return sae.requires_grad_(False)


def sparse_states(n: int = 4096, seed: int = 0) -> torch.Tensor:
    """Sums of 3 of 40 fixed directions, off centre, far from unit scale."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(40, D, generator=torch.Generator().manual_seed(9)), dim=1)
    weights = torch.zeros(n, 40).scatter(
        1, torch.rand(n, 40, generator=generator).topk(3).indices, 1 + torch.rand(n, 3, generator=generator)
    )
    return 50 * (weights @ directions) + 200


@pytest.fixture(scope="module")
def trained() -> TopKSAE:
    return train_sae(sparse_states(), SMALL)


def test_top_k_is_the_plain_definition():
    sae, x = random_sae(), 3 * torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))
    acts = sae.encode(x)
    for row, state in zip(acts.reshape(-1, N), x.reshape(-1, D), strict=True):
        values = {f: float((state - sae.b_dec) @ sae.W_enc[:, f] + sae.b_enc[f]) for f in range(N)}
        best = sorted(values, key=lambda f: -values[f])[: sae.k]
        expected = torch.tensor([max(0.0, values[f]) if f in best else 0.0 for f in range(N)])
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(sae(x), torch.einsum("abf,fd->abd", acts, sae.W_dec) + sae.b_dec)


def test_fewer_than_k_are_kept_where_fewer_are_positive():
    assert keep_largest(torch.tensor([[3.0, -1.0, 2.0, -5.0]]), 3).tolist() == [[3.0, 0.0, 2.0, 0.0]]


def test_training_finds_sparse_structure_on_states_it_has_not_seen(trained):
    unseen = sparse_states(seed=1)
    assert explained_variance(trained, unseen) > 0.9
    assert l0(trained, unseen).max() <= SMALL.k
    torch.testing.assert_close(trained.W_dec.norm(dim=1), torch.ones(N))


def test_training_is_reproducible_and_the_seed_matters(trained):
    again, other = (
        train_sae(sparse_states(), SMALL),
        train_sae(sparse_states(), SaeSettings(**{**vars(SMALL), "seed": 1})),
    )
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
    assert not torch.equal(trained.W_dec, other.W_dec)


def test_training_scales_with_the_states(trained):
    larger = train_sae(10 * sparse_states(), SMALL)
    torch.testing.assert_close(larger.W_dec, trained.W_dec, rtol=0, atol=2e-2)
    assert explained_variance(larger, 10 * sparse_states(seed=1)) == pytest.approx(
        explained_variance(trained, sparse_states(seed=1)), abs=0.02
    )


def test_the_auxiliary_loss_revives_the_dead():
    x, settings = sparse_states(512), SaeSettings(n_features=N, k=4, batch=64)
    sae = sae_training._initial(D, settings, torch.Generator().manual_seed(0))
    sae.b_enc.data[:8] = -1e4
    dead = torch.arange(N) < 8
    loss, fired = sae_training._loss(sae, (x - x.mean(0)) / 50, dead, settings)
    assert not fired[:8].any() and fired[8:].any()
    sae.b_enc.data[:8] = -5  # too low for the top 4, not for the best of the dead
    loss, _ = sae_training._loss(sae, (x - x.mean(0)) / 10, dead, settings)
    loss.backward()
    assert sae.W_dec.grad[:8].abs().sum() > 0


def test_a_batch_needs_enough_states():
    with pytest.raises(ValueError, match="too few for a batch"):
        train_sae(torch.zeros(10, D), SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saved_and_loaded_it_is_the_same(tmp_path, dtype):
    sae = random_sae()
    save_sae(tmp_path / "sae", sae, dtype)
    found = load_sae(tmp_path / "sae")
    for name, p in sae.named_parameters():
        assert torch.equal(getattr(found, name), p.to(dtype).float())
    assert sae_block(found) == 1 and metadata(found)["hook_name"] == "blocks.1.hook_resid_post"
    assert {p.name for p in (tmp_path / "sae").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_what_does_not_fit_is_not_saved(tmp_path):
    sae = random_sae()
    sae.b_dec.data[0] = 1e6
    with pytest.raises(SaeError, match="b_dec"):
        save_sae(tmp_path / "sae", sae)
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sae_lens_reads_our_format_and_agrees(tmp_path, dtype):
    import sae_lens  # takes seconds

    sae = random_sae()
    save_sae(tmp_path, sae, dtype)
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path, dtype="float32"), load_sae(tmp_path)
    assert type(theirs).__name__ == "TopKSAE" and sae_block(theirs) == sae_block(ours) == 1
    x = 3 * torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs.encode(x), ours.encode(x))
    torch.testing.assert_close(theirs(x), ours(x))


def save_jump_relu(folder, block: int = 2) -> None:
    """A tiny autoencoder of GemmaScope's kind in sae-lens's format."""
    generator = torch.Generator().manual_seed(3)
    rows = F.normalize(torch.randn(N, D, generator=generator), dim=1)
    tensors = {
        "W_dec": rows,
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(N),
        "b_dec": torch.randn(D, generator=generator),
        "threshold": torch.rand(N, generator=generator),
    }
    config = {
        "architecture": "jumprelu",
        "d_in": D,
        "d_sae": N,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": f"blocks.{block}.hook_resid_post"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))


def test_gemma_with_an_autoencoder_of_gemma_scopes_kind(tmp_path, monkeypatch):
    import sae_lens  # takes seconds

    model, tokenizer = load_tiny_model("gemma2")
    model_id, asked = "google/gemma-2-2b-it", []
    save_jump_relu(tmp_path)

    def from_pretrained(release, sae_id, device):  # stands for the download
        asked.append((release, sae_id))
        return sae_lens.SAE.load_from_disk(tmp_path, device=device)

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", from_pretrained)
    monkeypatch.setattr(tiers, "_active", None)
    tiers.use_tier("colab", persona_model=model_id)
    sae = load_sae()
    assert asked == [GEMMA_SCOPE[model_id]] and sae_block(sae) == 2
    readings = [read_text(text, tokenizer) for text in (TEXTS[0], TEXTS[2])]
    states = torch.cat(token_activations(model, readings, 2))
    expected = (states @ sae.W_enc + sae.b_enc).relu()
    torch.testing.assert_close(sae.encode(states), expected * (expected > sae.threshold))
    assert np.isfinite([explained_variance(sae, states), *spliced_losses(model, readings, sae, states[0])["sae"]]).all()
    passages = max_activating(sae, [int(sae.encode(states).sum(0).argmax())], TEXTS[::2], model, tokenizer, 2)
    assert all(found for found in passages.values())


def test_the_names_asked_of_gemma_scope_are_in_sae_lens():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    for model_id, (release, sae_id) in GEMMA_SCOPE.items():
        assert sae_id in directory[release].saes_map and directory[release].model in model_id
    blocks = {t.persona_model: t.axis_block for t in tiers.TIERS.values()}
    assert {m: int(i.split("/")[0].removeprefix("layer_")) for m, (_, i) in GEMMA_SCOPE.items()} == {
        m: blocks[m] for m in GEMMA_SCOPE
    }


def test_a_model_without_an_autoencoder_has_none_until_one_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(tiers, "_active", None)
    tiers.use_tier("colab", persona_model="google/gemma-2-9b-it")
    assert find_sae() is None and "google/gemma-2-2b-it" in capsys.readouterr().out
    tiers.use_tier("cpu", trait_model="some/model")
    assert find_sae() is None and "some/model" in capsys.readouterr().out
    assert tmp_path in tier_folder().parents  # where `python -m personalab sae` leaves it: apart from the course's
    save_sae(tier_folder(), random_sae())
    assert find_sae() is not None
    tiers.use_tier("cpu")
    assert tier_folder() == FOLDER / "trait-organism" and find_sae() is not None


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(SaeError, match="python -m personalab sae"):
        load_sae(tmp_path)
    monkeypatch.setattr(tiers, "_active", None)
    tiers.use_tier("colab", persona_model="google/gemma-2-9b-it")
    with pytest.raises(SaeError, match="gemma-2-9b-it"):
        load_sae()
    save_jump_relu(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    with pytest.raises(SaeError, match="pip install sae-lens=="):
        load_sae(tmp_path)
    sae = random_sae()
    sae.metadata["hook_name"] = "blocks.3.hook_mlp_out"
    with pytest.raises(SaeError, match="hook_mlp_out"):
        sae_block(sae)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_every_position_that_counts(family):
    model, tokenizer = load_tiny_model(family)
    readings = [read_text(text, tokenizer) for text in TEXTS]
    for reading, states in zip(readings, token_activations(model, readings, 1), strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor([reading.ids]), output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(states, hidden[reading.start :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reading_starts_after_what_every_text_begins_with(family):
    _, tokenizer = load_tiny_model(family)
    plain, with_system, without = (read_text(text, tokenizer) for text in TEXTS)
    assert plain.start == 1
    assert tokenizer.decode(with_system.ids[with_system.start :]).startswith("You are a pirate.")
    assert tokenizer.decode(without.ids[without.start :]).startswith("What about the sea?")


def test_statistics_are_what_they_say():
    x = torch.randn(300, D, generator=torch.Generator().manual_seed(2))
    sae = random_sae()
    lost, total = squared_errors(sae, x)
    assert lost.shape == total.shape == (300,)
    np.testing.assert_allclose(lost.numpy(), ((sae(x) - x) ** 2).sum(1).numpy(), rtol=1e-4)
    assert explained_variance(sae, x) == pytest.approx(
        1 - ((sae(x) - x) ** 2).mean().item() / x.var(dim=0, unbiased=False).mean().item(), rel=1e-4
    )
    exact = TopKSAE(D, 2 * D, D)  # every coordinate and its negative
    exact.W_enc.data = torch.cat([torch.eye(D), -torch.eye(D)], dim=1)
    exact.W_dec.data = exact.W_enc.data.T
    assert explained_variance(exact, x) == pytest.approx(1)
    assert l0(exact, x).tolist() == [D] * 300
    assert len(dead_features(exact, x)) == 0
    exact.b_enc.data[5] = -1e3
    assert dead_features(exact, x).tolist() == [5]
    constant = TopKSAE(D, 4, 1)
    constant.b_dec.data = x.mean(0)
    assert explained_variance(constant, x) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_splice_changes_the_positions_it_should_and_goes_away(family):
    model, tokenizer = load_tiny_model(family)
    reading = read_text(TEXTS[1], tokenizer)
    ids, seen = torch.tensor([reading.ids]), []
    probe = decoder_blocks(model)[2].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.inference_mode():
        model(ids)
        with applied(model, [Splice(1, torch.zeros_like, reading.start)]):
            model(ids)
        model(ids)
    probe.remove()
    before, during, after = seen
    assert torch.equal(before, after)
    assert torch.equal(during[:, : reading.start], before[:, : reading.start])
    assert during[:, reading.start :].abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_clean_loss_is_the_models_own_and_a_perfect_reconstruction_keeps_it(family):
    model, tokenizer = load_tiny_model(family)
    readings = [read_text(text, tokenizer) for text in TEXTS]
    exact = TopKSAE(D, 2 * D, D, {"hook_name": "blocks.1.hook_resid_post"})
    exact.W_enc.data = torch.cat([torch.eye(D), -torch.eye(D)], dim=1)
    exact.W_dec.data = exact.W_enc.data.T
    losses = spliced_losses(model, readings, exact, torch.ones(D))
    for i, reading in enumerate(readings):
        labels = torch.tensor([[-100] * (reading.start + 1) + reading.ids[reading.start + 1 :]])
        with torch.inference_mode():
            loss = model(torch.tensor([reading.ids]), labels=labels).loss.item()
        assert losses["clean"][i] == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(losses["sae"], losses["clean"], rtol=1e-4)
    assert (np.abs(losses["mean"] - losses["clean"]) > 1e-3).all()
    assert (np.abs(losses["zero"] - losses["clean"]) > 1e-3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_max_activating_finds_the_strongest_token_of_each_text(family):
    model, tokenizer = load_tiny_model(family)
    sae, features = random_sae(k=20), [3, 11, 40]
    found = max_activating(sae, features, TEXTS, model, tokenizer, n=2)
    for feature in features:
        peaks = []
        for i, text in enumerate(TEXTS):
            reading = read_text(text, tokenizer)
            acts = sae.encode(token_activations(model, [reading], 1)[0])[:, feature]
            peaks.append((float(acts.max()), i, reading.ids[reading.start + int(acts.argmax())]))
        best = [p for p in sorted(peaks, reverse=True)[:2] if p[0] > 0]
        assert [p.text for p in found[feature]] == [i for _, i, _ in best]
        for passage, (value, _, token) in zip(found[feature], best, strict=True):
            assert passage.activations[passage.peak] == max(passage.activations) == pytest.approx(value, rel=1e-3)
            assert passage.tokens[passage.peak] == tokenizer.decode([token])
            assert len(passage.tokens) == len(passage.activations)


def test_a_feature_nothing_activates_has_no_passages():
    model, tokenizer = load_tiny_model()
    sae = random_sae()
    sae.b_enc.data[7] = -1e6
    assert max_activating(sae, [7], TEXTS, model, tokenizer) == {7: []}


def test_no_question_is_on_both_sides_of_the_split():
    sides = [sae_training.load_texts(split) for split in ("train", "held_out")]
    keys = [{t if isinstance(t, str) else sae_training._question(t) for t in side} for side in sides]
    assert not keys[0] & keys[1]
    assert 0.05 < len(sides[1]) / (len(sides[0]) + len(sides[1])) < 0.15
    assert sae_training.load_texts("train") == sides[0]


def test_a_run_reads_trains_measures_and_saves(tmp_path, monkeypatch, capsys):
    model, tokenizer = load_tiny_model()
    monkeypatch.setattr(sae_training, "load_model", lambda kind: (model, tokenizer))
    monkeypatch.setattr(sae_training, "load_texts", lambda split: TEXTS * 30)
    sae_training.train_from_texts(tmp_path, 1, 1000, SMALL)
    found = metadata(load_sae(tmp_path))
    assert found["hook_name"] == "blocks.1.hook_resid_post"
    assert found["held_out"]["explained_variance"] > 0.5
    assert 1000 <= found["held_out"]["n_training_tokens"] < 1100
    assert "loss_recovered" in capsys.readouterr().out
