"""Figures that others print, by benchmark, with where they were read."""

# Zach et al. (ICLR 2026), Table 1: gap in dB with the learned denoiser, 50 samples, 1000 steps (40 sweeps of DPnP), options
# searched on 1000 other signals for every law and problem; read in two public summaries of the paper
LEVY: dict[str, dict[str, tuple[str, ...]]] = {  # in the order of levy.LAWS
    "denoising": {
        "C-DPS": ("0.12", "0.12", "2.22", "3.26"),
        "DiffPIR": ("0.16", "0.09", "0.72 ± 1.10", "0.93"),
        "DPnP": ("0.24", "0.11", "1.33", "1.19"),
        "l2 (not a sampler)": ("0.00", "0.16", "8.61", "3.25"),
    },
    "deconvolution": {
        "C-DPS": ("0.12", "0.12", "4.30", "18.30"),
        "DiffPIR": ("0.07", "0.07", "1.09 ± 2.22", "10.45"),
        "DPnP": ("0.10", "0.13", "1.71", "7.84"),
        "l2 (not a sampler)": ("0.00", "0.07", "6.11", "21.50"),
    },
    "imputation": {"DiffPIR": ("", "", "0.24 ± 1.14", ""), "l2 (not a sampler)": ("", "", "1.10", "")},
    "Fourier": {"DiffPIR": ("", "", "0.83", ""), "l2 (not a sampler)": ("", "", "12.22", "")},
}
# Scope Crafts & Villa (2025), Tables 2 to 5: error of the mean, of the variances, MMD; learned scores unless stated, 200
# steps, 10 000 samples of 100 measurements; read in a public reading of the paper, which quotes these cells
BIPSDA: dict[str, dict[str, tuple[str, str, str]]] = {
    "inpainting, .1": {
        "exact": ("", "0.03", "0.001"),
        "RTO-TU": ("", "0.06", "0.001"),
        "Lang-ODE (DAPS)": ("", "0.11", ""),
        "MAP-TU (DiffPIR)": ("", "0.95", ""),
    },
    "inpainting, 5": {
        "exact": ("0.068", "0.22", ""),
        "MAP-TU (DiffPIR)": ("0.26", "1.41", "0.128"),
        "RTO-TU": ("1.0", "4.05", "0.013"),
        "Lang (DAPS and its kin)": ("10.6", "44", ""),
    },
    "x-ray": {
        "exact": ("", "0.07", ""),
        "RTO-TU": ("", "0.19", "0.003"),
        "Lang-TU": ("", "0.25", ""),
        "MAP-TU (DiffPIR)": ("", "1.67", ""),
    },
    "phase retrieval": {
        "exact": ("0.24", "0.79", ""),
        "Lang-TC, exact score": ("2", "4.01", ""),
        "MAP-TU (DiffPIR)": ("2", "5.63", ""),
        "Lang": ("2", "5.73", ""),
        "RTO-TU": ("2", "5.98", ""),
    },
}
