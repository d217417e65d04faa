"""The same by hand: `keras.Model` with a `train_step` of its own, as a tutorial would write it."""

import keras
import tensorflow as tf
from keras import ops
from training_steps.common import SEED
from training_steps.with_kgen import fit_function

import kgen


def vae(batch_size):
    networks = kgen.models.VAE.from_preset("vae_28x28")

    class PlainVAE(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = networks.encoder, networks.decoder
            self.seed_generator = keras.random.SeedGenerator(SEED)
            self.trackers = [
                keras.metrics.Mean(name=name)
                for name in ("loss", "reconstruction_loss", "kl_loss", "active_units")
            ]

        @property
        def metrics(self):
            return self.trackers

        def train_step(self, data):
            x = ops.cast(data[0], "float32") / 255
            noise = keras.random.uniform(ops.shape(x), seed=self.seed_generator)
            x = ops.cast(x > noise, "float32")
            with tf.GradientTape() as tape:
                mean, log_variance = ops.split(self.encoder(2 * x - 1), 2, axis=-1)
                noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
                logits = self.decoder(mean + ops.exp(0.5 * log_variance) * noise)
                entropy = ops.binary_crossentropy(x, logits, from_logits=True)
                reconstruction = ops.mean(ops.sum(entropy, axis=(1, 2, 3)))
                kl = 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1 - log_variance)
                kl = ops.mean(ops.sum(kl, axis=-1))
                loss = reconstruction + kl
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            active = ops.sum(ops.cast(ops.var(mean, axis=0) > 0.01, "float32"))
            values = (loss, reconstruction, kl, active)
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = PlainVAE()
    model.compile(keras.optimizers.Adam(1e-3))
    return fit_function(model, batch_size, "loss")


def dcgan(batch_size):
    networks = kgen.models.DCGAN.from_preset("dcgan_28x28")
    for network in (networks.generator, networks.discriminator):
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = False  # Keras's default

    class PlainDCGAN(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = networks.generator, networks.discriminator
            self.average = networks.ema_generator
            self.seed_generator = keras.random.SeedGenerator(SEED)
            self.trackers = [
                keras.metrics.Mean(name=name)
                for name in (
                    *("generator_loss", "discriminator_loss"),
                    *("real_accuracy", "fake_accuracy", "sample_spread"),
                )
            ]

        @property
        def metrics(self):
            return self.trackers

        def compile(self):
            super().compile()
            self.generator_optimizer = keras.optimizers.Adam(2e-4, 0.5)
            self.discriminator_optimizer = keras.optimizers.Adam(2e-4, 0.5)
            self.generator_optimizer.build(self.generator.trainable_weights)
            self.discriminator_optimizer.build(self.discriminator.trainable_weights)

        def train_step(self, data):
            real = ops.cast(data[0], "float32") / 127.5 - 1
            shape = (ops.shape(real)[0], networks.latent_dim)
            latents = keras.random.normal(shape, seed=self.seed_generator)
            weights = self.generator.trainable_weights
            with tf.GradientTape() as tape:
                fake = self.generator(latents, training=True)
                loss = ops.mean(ops.softplus(-self.discriminator(fake, training=True)))
            gradients = tape.gradient(loss, weights)
            self.generator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
            weights = self.discriminator.trainable_weights
            with tf.GradientTape() as tape:
                on_real = self.discriminator(real, training=True)
                on_fake = self.discriminator(fake, training=True)
                other = ops.mean(ops.softplus(-on_real)) + ops.mean(ops.softplus(on_fake))
            gradients = tape.gradient(other, weights)
            self.discriminator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
            for mean, variable in zip(self.average.weights, self.generator.weights, strict=True):
                mean.assign(variable + 0.999 * (mean - variable))
            values = (
                loss,
                other,
                ops.mean(ops.cast(on_real > 0, "float32")),
                ops.mean(ops.cast(on_fake < 0, "float32")),
                ops.mean(ops.std(fake, axis=0)) / ops.mean(ops.std(real, axis=0)),
            )
            for tracker, value in zip(self.trackers, values, strict=True):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = PlainDCGAN()
    model.compile()
    return fit_function(model, batch_size, "generator_loss")
