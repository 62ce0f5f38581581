"""The catalogue of operators (installed as invgen.operators)."""

from invgen.compose import stack
from invgen.operators.audio import LowPassDecimate
from invgen.operators.blur import Blur
from invgen.operators.compressed_sensing import CompressedSensing
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom
from invgen.operators.ct.raw import find_center, line_integrals, read_scan
from invgen.operators.ct.units import hu_to_mu, mu_to_hu
from invgen.operators.ct.views import limited_angles
from invgen.operators.ct.volumes import ConeBeamCT, ParallelBeamCT3D
from invgen.operators.decimate import Decimate
from invgen.operators.distances import Distances
from invgen.operators.downsample import Downsample
from invgen.operators.function import from_function
from invgen.operators.grey import Grey
from invgen.operators.jpeg import JPEG
from invgen.operators.kernels import disk_kernel, gaussian_kernel, motion_kernel
from invgen.operators.mask import Mask
from invgen.operators.matrix import Matrix
from invgen.operators.media.frames import FrameAverage, per_frame
from invgen.operators.media.irregular import irregular_mask
from invgen.operators.media.sound import MelSpectrogram, STFTMagnitude
from invgen.operators.mri.coils import birdcage_maps, espirit_maps, normalise_maps, rss, sensitivity_maps
from invgen.operators.mri.fourier import Fourier, fftc, ifftc
from invgen.operators.mri.kspace_masks import equispaced_mask, radial_mask, random_mask
from invgen.operators.mri.mri import MRI, MultiCoilMRI
from invgen.operators.nonlinear import HighDynamicRange, PhaseRetrieval, Quantize
from invgen.operators.nonlinear_blur import NonlinearBlur
from invgen.operators.nonuniform.closure import ClosurePhases, LogClosureAmplitudes, closure_sets, sky_points
from invgen.operators.nonuniform.fourier import NonUniformFourier
from invgen.operators.nonuniform.mri import NonCartesianMRI
from invgen.operators.nonuniform.trajectories import density_compensation, radial_trajectory, spiral_trajectory
from invgen.operators.orthogonal import Haar, Identity
from invgen.operators.peers.deepinv import from_deepinv, noise_from_deepinv, to_deepinv
from invgen.operators.resize import Resize
from invgen.operators.translation import TranslationTable

__all__ = [
    "JPEG",
    "MRI",
    "Blur",
    "ClosurePhases",
    "CompressedSensing",
    "ConeBeamCT",
    "Decimate",
    "Distances",
    "Downsample",
    "EllipsePhantom",
    "FanBeamCT",
    "Fourier",
    "FrameAverage",
    "Grey",
    "Haar",
    "HighDynamicRange",
    "Identity",
    "LogClosureAmplitudes",
    "LowPassDecimate",
    "Mask",
    "Matrix",
    "MelSpectrogram",
    "MultiCoilMRI",
    "NonCartesianMRI",
    "NonUniformFourier",
    "NonlinearBlur",
    "ParallelBeamCT",
    "ParallelBeamCT3D",
    "PhaseRetrieval",
    "Quantize",
    "Resize",
    "STFTMagnitude",
    "TranslationTable",
    "birdcage_maps",
    "closure_sets",
    "density_compensation",
    "disk_kernel",
    "equispaced_mask",
    "espirit_maps",
    "fftc",
    "find_center",
    "from_deepinv",
    "from_function",
    "gaussian_kernel",
    "hu_to_mu",
    "ifftc",
    "irregular_mask",
    "limited_angles",
    "line_integrals",
    "motion_kernel",
    "mu_to_hu",
    "noise_from_deepinv",
    "normalise_maps",
    "per_frame",
    "radial_mask",
    "radial_trajectory",
    "random_mask",
    "read_scan",
    "rss",
    "sensitivity_maps",
    "sky_points",
    "spiral_trajectory",
    "stack",
    "to_deepinv",
]
