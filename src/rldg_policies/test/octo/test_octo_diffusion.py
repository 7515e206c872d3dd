"""The noise schedule, the loss and the sampler, on networks that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rldg_policies.octo.diffusion import cosine_betas, denoise, noise_loss

BETAS = cosine_betas(20)
EVERYTHING = jnp.ones(28, bool)


def test_the_schedule_is_that_of_the_release() -> None:
    np.testing.assert_allclose(BETAS[:3], [0.00799, 0.02008, 0.03225], atol=6e-6)
    np.testing.assert_allclose(BETAS[-2:], [0.7485, 0.999], atol=5e-5)
    assert BETAS.dtype == np.float32


def test_a_network_that_predicts_nothing_loses_the_variance_of_the_noise() -> None:
    chunks = jnp.ones((64, 2, 28))
    loss = noise_loss(lambda noisy, step: jnp.zeros_like(noisy), chunks, chunks > 0, jax.random.key(0), BETAS)
    assert float(loss) == pytest.approx(1.0, abs=0.05)


def test_more_draws_leave_the_mean_of_the_loss_and_reduce_its_spread() -> None:
    chunks = jnp.ones((1, 1, 28))

    def losses(draws: int) -> np.ndarray:
        def one(key: jax.Array) -> jax.Array:
            return noise_loss(lambda noisy, step: jnp.zeros_like(noisy), chunks, chunks > 0, key, BETAS, draws)

        return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 200)))

    single, many = losses(1), losses(16)
    assert single.mean() == pytest.approx(many.mean(), rel=0.1)
    assert many.std() == pytest.approx(single.std() / 4.0, rel=0.3)


def test_what_is_masked_is_not_learnt() -> None:
    mask = jnp.arange(28) < 6
    chunks = jnp.zeros((4, 1, 28))

    def spoiled(noisy: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.where(mask, 0.0, 1e6)

    broad = jnp.broadcast_to(mask, chunks.shape)
    assert float(noise_loss(spoiled, chunks, broad, jax.random.key(0), BETAS)) < 3.0
    assert float(noise_loss(spoiled, chunks, jnp.zeros_like(broad), jax.random.key(0), BETAS)) == 0.0


def test_actions_far_away_are_clipped_before_noise_is_added() -> None:
    def loss(value: float) -> float:
        chunks = jnp.full((8, 1, 28), value)
        return float(noise_loss(lambda noisy, step: noisy, chunks, chunks > 0, jax.random.key(1), BETAS))

    assert loss(5.0) == loss(50.0) != loss(4.0)


@pytest.mark.parametrize("clip_denoised", [False, True])
def test_a_perfect_network_denoises_to_the_actions_it_was_made_for(clip_denoised: bool) -> None:
    target = jnp.linspace(-2.0, 2.0, 28)
    kept = jnp.cumprod(1.0 - BETAS)

    def perfect(noisy: jax.Array, step: jax.Array) -> jax.Array:
        return (noisy - jnp.sqrt(kept[step]) * target) / jnp.sqrt(1.0 - kept[step])

    drawn = denoise(perfect, (3, 2, 28), EVERYTHING, jax.random.key(2), BETAS, clip_denoised)
    np.testing.assert_allclose(drawn, jnp.broadcast_to(target, (3, 28)), atol=1e-3)


@pytest.mark.parametrize(("clip_denoised", "strength"), [(False, 4.9), (True, 0.8)])
def test_after_an_error_at_the_first_step_the_network_sees_what_it_knows_where_estimates_are_clipped(
    clip_denoised: bool, strength: float
) -> None:
    seen = []

    def ignorant(noisy: jax.Array, step: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: seen.append(np.abs(x).mean()), noisy, ordered=True)
        return jnp.zeros_like(noisy)

    denoise(ignorant, (64, 1, 28), EVERYTHING, jax.random.key(3), BETAS, clip_denoised)
    jax.effects_barrier()
    assert seen[0] == pytest.approx(np.sqrt(2.0 / np.pi), rel=0.1)  # noise of variance 1
    assert seen[1] == pytest.approx(strength, rel=0.2)


def test_drawn_actions_stay_within_five() -> None:
    drawn = denoise(lambda noisy, step: 50.0 * noisy, (4, 1, 28), EVERYTHING, jax.random.key(3), BETAS)
    assert float(jnp.abs(drawn).max()) == 5.0


def test_numbers_that_are_not_used_are_shown_to_the_network_as_the_noise_it_knows() -> None:
    seen = []

    def watch(noisy: jax.Array, step: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x, t: seen.append((int(t[0, 0]), np.array(x))), noisy, step, ordered=True)
        return jnp.full_like(noisy, 1e3)

    used = jnp.arange(28) % 7 < 6
    drawn = denoise(watch, (512, 1, 28), used, jax.random.key(4), BETAS)
    jax.effects_barrier()
    assert [t for t, _ in seen] == list(range(19, -1, -1))
    spread = np.sqrt(1.0 - np.cumprod(1.0 - BETAS))
    for (_, noisy), t in zip(seen[1:], range(19, 0, -1), strict=True):
        assert noisy[:, 6::7].std() == pytest.approx(spread[t], rel=0.1)
    assert float(jnp.abs(drawn[:, :6]).min()) == 5.0
