import dataclasses
from typing import Any

from kgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN as GatedPixelCNN
from kgen.models.autoregressive.image_gpt import ImageGPT as ImageGPT
from kgen.models.autoregressive.pixelcnn import PixelCNN as PixelCNN
from kgen.models.autoregressive.pixelcnn_pp import PixelCNNpp as PixelCNNpp
from kgen.models.autoregressive.pixelrnn import PixelRNN as PixelRNN
from kgen.models.diffusion.ddpm import DDPM as DDPM
from kgen.models.diffusion.dit import DiT as DiT
from kgen.models.diffusion.edm import EDM as EDM
from kgen.models.diffusion.flow_matching import FlowMatching as FlowMatching
from kgen.models.diffusion.soflow import SoFlow as SoFlow
from kgen.models.diffusion.soflow_dit import SoFlowDiT as SoFlowDiT
from kgen.models.gan.dcgan import DCGAN as DCGAN
from kgen.models.gan.r3gan import R3GAN as R3GAN
from kgen.models.gan.resnet_gan import ResNetGAN as ResNetGAN
from kgen.models.gan.vit_gan import ViTGAN as ViTGAN
from kgen.models.tokens.maskgit import MaskGIT as MaskGIT
from kgen.models.tokens.vq_pixelcnn import VQPixelCNN as VQPixelCNN
from kgen.models.tokens.vq_transformer import VQTransformer as VQTransformer
from kgen.models.tokens.vqvae import VQVAE as VQVAE
from kgen.models.translation.cycle_gan import CycleGAN as CycleGAN
from kgen.models.translation.palette import Palette as Palette
from kgen.models.translation.pix2pix import Pix2Pix as Pix2Pix
from kgen.models.translation.restorer import Restorer as Restorer
from kgen.models.translation.srgan import SRGAN as SRGAN
from kgen.models.translation.style_transfer import StyleTransfer as StyleTransfer
from kgen.models.vae.ladder_vae import LadderVAE as LadderVAE
from kgen.models.vae.vae import VAE as VAE
from kgen.models.vae.vit_vae import ViTVAE as ViTVAE

@dataclasses.dataclass(frozen=True)
class Family:
    what: str
    models: dict[str, str]

def families() -> dict[str, Family]: ...
def registered() -> dict[str, Any]: ...
def classes() -> list[tuple[str, str]]: ...
def get(name: str) -> Any: ...
def presets() -> dict[str, dict[str, Any]]: ...
def trained() -> dict[str, dict[str, Any]]: ...
