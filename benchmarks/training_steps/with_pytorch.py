"""The same in PyTorch, as its users write it: eager, or with what `wrap` is, `torch.compile`."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional
from training_steps.common import IMAGE_GPT, images


def data_of(batch_size, shape=(28, 28, 1)):
    """Images `[B, C, H, W]`, on the GPU where there is one."""
    data = torch.from_numpy(images(batch_size, shape)).permute(0, 3, 1, 2).contiguous()
    return data.to("cuda" if torch.cuda.is_available() else "cpu")


def vae(batch_size, wrap):
    class Residual(nn.Module):
        def __init__(self, filters):
            super().__init__()
            self.first = nn.Conv2d(filters, filters, 3, padding=1)
            self.second = nn.Conv2d(filters, filters, 3, padding=1)

        def forward(self, x):
            return x + self.second(functional.silu(self.first(functional.silu(x))))

    encoder = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), Residual(32), nn.SiLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), Residual(64), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 256), nn.SiLU(), nn.Linear(256, 64)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(32, 256), nn.SiLU(), nn.Linear(256, 7 * 7 * 64), nn.Unflatten(1, (64, 7, 7))),
        *(Residual(64), nn.SiLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1)),
        *(Residual(32), nn.SiLU(), nn.ConvTranspose2d(32, 32, 4, 2, 1)),
        *(nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1)),
    )
    data = data_of(batch_size)
    parameters = [*encoder.to(data.device).parameters(), *decoder.to(data.device).parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    @wrap
    def objective():
        x = (data / 255 > torch.rand(data.shape, device=data.device)).float()
        mean, log_variance = encoder(2 * x - 1).chunk(2, dim=1)
        logits = decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        entropy = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return entropy.sum((1, 2, 3)).mean() + kl.sum(1).mean()

    def step():
        loss = objective()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


def dcgan(batch_size, wrap):
    def batch_norm(filters):
        return nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)

    generator = nn.Sequential(
        *(nn.Linear(100, 7 * 7 * 64, bias=False), nn.Unflatten(1, (64, 7, 7))),
        *(batch_norm(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False)),
        *(batch_norm(32), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(32, 64, 4, 2, 1, bias=False), batch_norm(64), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 1)),
    )
    data = data_of(batch_size)
    generator, discriminator = generator.to(data.device), discriminator.to(data.device)
    average = copy.deepcopy(generator)
    state = [*generator.parameters(), *(b for b in generator.buffers() if b.is_floating_point())]
    means = [*average.parameters(), *(b for b in average.buffers() if b.is_floating_point())]
    generator_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    parameters = [*generator.parameters(), *discriminator.parameters()]
    generator, discriminator = wrap(generator), wrap(discriminator)

    def step():
        real = data / 127.5 - 1
        discriminator.requires_grad_(False)  # the generator's move needs no gradients of it
        fake = generator(torch.randn(len(real), 100, device=data.device))
        loss = functional.softplus(-discriminator(fake)).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        on_real, on_fake = discriminator(real), discriminator(fake.detach())
        other = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        discriminator_optimizer.zero_grad()
        other.backward()
        discriminator_optimizer.step()
        with torch.no_grad():
            for mean, value in zip(means, state, strict=True):
                mean.lerp_(value, 0.001)
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


def r3gan(batch_size, wrap, differences=False):
    class Residual(nn.Module):
        def __init__(self, filters):
            super().__init__()
            self.first = nn.Conv2d(filters, 2 * filters, 1)
            self.second = nn.Conv2d(2 * filters, 2 * filters, 3, padding=1, groups=2 * filters)
            self.third = nn.Conv2d(2 * filters, filters, 1, bias=False)
            nn.init.zeros_(self.third.weight)

        def forward(self, x):
            y = functional.leaky_relu(self.first(x), 0.2)
            return x + self.third(functional.leaky_relu(self.second(y), 0.2))

    class Basis(nn.Module):
        def __init__(self):
            super().__init__()
            self.patterns = nn.Parameter(torch.randn(64, 7, 7))

        def forward(self, x):
            return x[:, :, None, None] * self.patterns

    generator = nn.Sequential(
        *(nn.Linear(64, 64, bias=False), Basis(), Residual(64)),
        *(nn.Conv2d(64, 32, 1, bias=False), nn.Upsample(scale_factor=2, mode="bilinear")),
        *(Residual(32), nn.Conv2d(32, 4, 1), nn.PixelShuffle(2), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.PixelUnshuffle(2), nn.Conv2d(4, 32, 1), Residual(32)),
        *(nn.AvgPool2d(2), nn.Conv2d(32, 64, 1, bias=False), Residual(64)),
        *(nn.Conv2d(64, 64, 7, groups=64, bias=False), nn.Flatten(), nn.Linear(64, 1, bias=False)),
    )
    data = data_of(batch_size)
    generator, discriminator = generator.to(data.device), discriminator.to(data.device)
    average = copy.deepcopy(generator)
    state, means = list(generator.parameters()), list(average.parameters())
    generator_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.99))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99))
    parameters = [*generator.parameters(), *discriminator.parameters()]
    generator = wrap(generator)
    if differences:
        discriminator = wrap(discriminator)

    def penalty(pixels, logits):
        if differences:
            moved = discriminator(pixels + 0.01 * torch.randn_like(pixels))
            return 0.5 * ((logits - moved) / 0.01).square().mean()
        (slopes,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
        return 0.5 * slopes.square().sum((1, 2, 3)).mean()

    def step():
        real = data / 127.5 - 1
        discriminator.requires_grad_(False)  # the generator's move needs no gradients of it
        fake = generator(torch.randn(len(real), 64, device=data.device))
        loss = functional.softplus(discriminator(real) - discriminator(fake)).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        fake = fake.detach()
        if not differences:
            real.requires_grad_(True)
            fake.requires_grad_(True)
        on_real, on_fake = discriminator(real), discriminator(fake)
        other = functional.softplus(on_fake - on_real).mean()
        other = other + penalty(real, on_real) + penalty(fake, on_fake)
        discriminator_optimizer.zero_grad()
        other.backward()
        discriminator_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, state, 0.001)
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


def r3gan_differences(batch_size, wrap):
    return r3gan(batch_size, wrap, differences=True)


def transformer_block(dim, num_heads, grid, conditional, causal):
    """A block of a transformer with rotary positions, as PyTorch's users write it."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(
                nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not conditional) for _ in range(2)
            )
            self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
            self.first, self.second = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
            if conditional:
                self.modulation = nn.Linear(dim, 6 * dim)
                nn.init.zeros_(self.modulation.weight)
                nn.init.zeros_(self.modulation.bias)
            # A head's pairs of features are turned, one half by the row, one by the column.
            pairs = dim // num_heads // 4
            frequencies = 100.0 ** -(torch.arange(pairs) / pairs)
            places = torch.cartesian_prod(*(torch.arange(side) for side in grid))
            angles = (places[:, :, None] * frequencies).flatten(1)
            self.register_buffer("cosine", angles.cos())
            self.register_buffer("sine", angles.sin())

        def rotate(self, x):
            first, second = x.chunk(2, dim=-1)
            turned = (
                first * self.cosine - second * self.sine,
                first * self.sine + second * self.cosine,
            )
            return torch.cat(turned, dim=-1)

        def attention(self, x):
            heads = self.qkv(x).unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
            query, key, value = heads.unbind()
            x = functional.scaled_dot_product_attention(
                self.rotate(query), self.rotate(key), value, is_causal=causal
            )
            return self.out(x.transpose(1, 2).flatten(2))

        def mlp(self, x):
            return self.second(functional.gelu(self.first(x), approximate="tanh"))

        def forward(self, x, condition=None):
            if not conditional:
                x = x + self.attention(self.norms[0](x))
                return x + self.mlp(self.norms[1](x))
            parts = self.modulation(functional.silu(condition))[:, None].chunk(6, dim=-1)
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
            x = x + gate * self.attention(self.norms[0](x) * (1 + scale) + shift)
            return x + mlp_gate * self.mlp(self.norms[1](x) * (1 + mlp_scale) + mlp_shift)

    return Block()


def step_of(objective, parameters, betas, means=None):
    """Adam with gradients of bounded length, and a moving average of the weights."""
    parameters = list(parameters)
    means = None if means is None else list(means)
    optimizer = torch.optim.Adam(parameters, 1e-3, betas, fused=True)
    counter = itertools.count(1)

    def step():
        loss = objective()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if means:
            i = next(counter)
            with torch.no_grad():
                torch._foreach_lerp_(means, parameters, 1 - min(0.999, (1 + i) / (10 + i)))
        return loss.detach()

    return step, sum(p.numel() for p in parameters)


def dit(batch_size, wrap):
    return flow_matching_with(dit_network(), batch_size, wrap)


def flow_matching(batch_size, wrap):
    return flow_matching_with(unet(), batch_size, wrap)


def flow_matching_with(network, batch_size, wrap):
    data = data_of(batch_size)
    network = network.to(data.device)
    average = copy.deepcopy(network).requires_grad_(False)

    @wrap
    def objective():
        x = data / 127.5 - 1
        noise = torch.randn_like(x)
        times = torch.sigmoid(torch.randn(len(x), device=x.device))
        mixed = torch.lerp(x, noise, times[:, None, None, None])
        return functional.mse_loss(network(mixed, times), noise - x)

    return step_of(objective, network.parameters(), (0.9, 0.99), average.parameters())


def dit_network(dim=128, num_layers=6, num_heads=4, size=4, grid=(7, 7)):
    class DiT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Linear(size * size, dim)
            self.rows = nn.Parameter(0.02 * torch.randn(grid[0], 1, dim))
            self.columns = nn.Parameter(0.02 * torch.randn(grid[1], dim))
            self.register_buffer("frequencies", 10_000.0 ** -(torch.arange(128) / 128))
            self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
            self.blocks = nn.ModuleList(
                transformer_block(dim, num_heads, grid, conditional=True, causal=False)
                for _ in range(num_layers)
            )
            self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
            self.modulation = nn.Linear(dim, 2 * dim)
            self.velocity = nn.Linear(dim, size * size)
            for layer in (self.modulation, self.velocity):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x, times):
            angles = 1000 * times[:, None] * self.frequencies
            condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
            x = x.reshape(-1, grid[0], size, grid[1], size).transpose(2, 3)
            x = self.patches(x.reshape(-1, grid[0] * grid[1], size * size))
            x = x + (self.rows + self.columns).flatten(0, 1)
            for block in self.blocks:
                x = block(x, condition)
            parts = self.modulation(functional.silu(condition))[:, None]
            shift, scale = parts.chunk(2, dim=-1)
            x = self.velocity(self.norm(x) * (1 + scale) + shift)
            x = x.reshape(-1, *grid, size, size).transpose(2, 3)
            return x.reshape(-1, 1, grid[0] * size, grid[1] * size)

    return DiT()


def unet(filters=40, size=2):
    """A U-Net of two maps, with a block at each on the way down and up, and one in the middle."""
    width, condition_dim = 2 * filters, 4 * filters

    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.norms = nn.ModuleList(
                [nn.GroupNorm(8, before), nn.GroupNorm(8, after, affine=False)]
            )
            self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
            self.second = nn.Conv2d(after, after, 3, padding=1)
            self.modulation = nn.Linear(condition_dim, 2 * after)
            self.shortcut = nn.Identity()
            if before != after:
                self.shortcut = nn.Conv2d(before, after, 1, bias=False)
            nn.init.zeros_(self.second.weight)

        def forward(self, x, condition):
            y = self.first(functional.silu(self.norms[0](x)))
            shift, scale = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
            y = self.second(functional.silu(self.norms[1](y) * (1 + scale) + shift))
            return self.shortcut(x) + y

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("frequencies", 10_000.0 ** -(torch.arange(128) / 128))
            self.time = nn.Sequential(
                nn.Linear(256, condition_dim), nn.SiLU(), nn.Linear(condition_dim, condition_dim)
            )
            self.first = nn.Conv2d(size * size, filters, 3, padding=1)
            self.down = Block(filters, filters)
            self.smaller = nn.Conv2d(filters, filters, 3, 2, padding=1)
            self.down_1, self.middle = Block(filters, width), Block(width, width)
            self.up_1 = Block(2 * width, width)
            self.larger = nn.Conv2d(width, filters, 3, padding=1)
            self.up = Block(2 * filters, filters)
            self.norm = nn.GroupNorm(8, filters)
            self.last = nn.Conv2d(filters, size * size, 3, padding=1)
            nn.init.zeros_(self.last.weight)

        def forward(self, x, times):
            angles = 1000 * times[:, None] * self.frequencies
            condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
            condition = functional.silu(condition)
            first = self.down(self.first(functional.pixel_unshuffle(x, size)), condition)
            second = self.down_1(self.smaller(first), condition)
            x = self.up_1(torch.cat([self.middle(second, condition), second], 1), condition)
            x = self.larger(functional.interpolate(x, scale_factor=2))
            x = self.up(torch.cat([x, first], 1), condition)
            return functional.pixel_shuffle(self.last(functional.silu(self.norm(x))), size)

    return UNet()


def image_gpt(batch_size, wrap):
    data = data_of(batch_size, IMAGE_GPT["image_shape"])
    network = image_gpt_network().to(data.device)

    @wrap
    def objective():
        tokens = (data / 255 > torch.rand(data.shape, device=data.device)).long().flatten(1)
        logits = network(tokens)
        entropy = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum")
        return entropy / len(data)

    return step_of(objective, network.parameters(), (0.9, 0.95))


def image_gpt_network(dim=128, num_layers=4, num_heads=4, levels=2, grid=(16, 16)):
    class ImageGPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(levels, dim)
            self.start = nn.Parameter(0.02 * torch.randn(dim))
            self.rows = nn.Parameter(0.02 * torch.randn(grid[0], 1, dim))
            self.columns = nn.Parameter(0.02 * torch.randn(grid[1], dim))
            self.channels = nn.Parameter(0.02 * torch.randn(dim))  # of the only one
            self.blocks = nn.ModuleList(
                transformer_block(dim, num_heads, grid, conditional=False, causal=True)
                for _ in range(num_layers)
            )
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.logits = nn.Linear(dim, levels)
            nn.init.zeros_(self.logits.weight)
            nn.init.zeros_(self.logits.bias)

        def forward(self, tokens):
            start = self.start.expand(len(tokens), 1, -1)
            x = torch.cat([start, self.tokens(tokens[:, :-1])], dim=1)
            x = x + (self.rows + self.columns + self.channels).flatten(0, 1)
            for block in self.blocks:
                x = block(x)
            return self.logits(self.norm(x))

    return ImageGPT()
