# Two commands do everything: `make audit` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= audit
STAMP := $(VENV)/.installed

.PHONY: help install audit test test-real test-ray test-monailabel test-wheel docs benchmark case-study train train-pairs train-same-patient train-rival export export-scorer lint clean

help:
	@echo "make audit            install, write the sample cohort, audit it, say where the report is"
	@echo "make test             install and run the tests (offline, CPU, about 15 minutes)"
	@echo "make test-real DATA=  the slow tests on a folder of real images"
	@echo "make test-ray         a cluster of this machine: workers and a driver that are killed"
	@echo "make test-monailabel  a MONAI Label server of its own environment, asked on loopback"
	@echo "make test-wheel       the built wheel in a bare environment, in an empty folder"
	@echo "make docs             the documentation as a site"
	@echo "make benchmark DATA=  the tables of docs/benchmarks.md"
	@echo "make case-study DATA= generators that memorize and that do not, audited (hours)"
	@echo "make train DATA=      train the encoder's weights from scratch"
	@echo "make export           TorchScript and ONNX of the encoder"
	@echo "make export-scorer    TorchScript and ONNX of a fitted mi_scorer, REFERENCE=DIR; KIND=_3d of one fitted on volumes"
	@echo "make lint             ruff and mypy"

# The CPU build of torch comes first and pinned: an open requirement would pull several GB of CUDA packages.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

install: $(STAMP)

audit: $(STAMP)
	$(BIN)/doppelscan sample --output $(OUT)/sample
	$(BIN)/doppelscan audit --training $(OUT)/sample/training --synthetic $(OUT)/sample/synthetic \
	  --holdout $(OUT)/sample/holdout --patient-pattern '(train\d+|other\d+|synthetic\d+)' --output $(OUT)/report

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not real and not slow" tests

test-real: $(STAMP)
	@test -n "$(DATA)" || { echo "make test-real needs DATA=DIR, a folder with manifest.csv"; exit 2; }
	DOPPELSCAN_REAL_DATA=$(DATA) $(BIN)/python -m pytest -m "real or slow" tests

# Ray is an extra that make test does without: its tests are skipped there.
test-ray: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_workers.py tests/workflows/test_ray.py

benchmark: $(STAMP)
	@test -n "$(DATA)" || { echo "make benchmark needs DATA=DIR, a folder with manifest.csv"; exit 2; }
	$(BIN)/python tests/real/benchmark.py $(DATA) --output $(OUT)-benchmark.json

# STUDY passes further settings, such as STUDY="--slice_range [0.45,0.65]".
STUDY :=

case-study: $(STAMP)
	@test -n "$(DATA)" || { echo "make case-study needs DATA=DIR, a folder or table of images"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m monai.bundle run --config_file configs/case_study.json --dataset_dir $(DATA) \
	  --output_dir $(OUT)-case-study $(STUDY)

ENCODER := bundles/deepssim_encoder
CONFIGS := $(ENCODER)/configs
SPLIT := $(OUT)-split
# What trains, and how often each is drawn; DATA holds mri/manifest.csv and cxr/manifest.csv.
MRI := '$(SPLIT)/ds002748_t1_train.csv','$(SPLIT)/ds002748_t1_coronal_train.csv','$(SPLIT)/figshare_t1ce_train.csv','$(SPLIT)/spider_spine_t2_train.csv'
ALL := $(MRI),'$(SPLIT)/kermany_train.csv'
SOURCES := --dataset_dir "[$(ALL)]" --dataset_weights "[3,2,3,2,3]"
# STEPS and PAIR_STEPS shorten it, such as STEPS="--max_epochs 1 --batches 2" PAIR_STEPS="--pairs 24 --max_epochs 1".
STEPS :=
PAIR_STEPS :=
PAIRS = $(BIN)/python -m monai.bundle run --config_file $(CONFIGS)/ssim_pairs.json --dataset_dir "[$(ALL)]" --output_dir $(OUT)-pairs $(PAIR_STEPS)

# Killed, it goes on where it was by the same command.
train: $(STAMP)
	@test -n "$(DATA)" || { echo "make train needs DATA=DIR, a folder with mri/manifest.csv and cxr/manifest.csv"; exit 2; }
	$(BIN)/python tests/real/split.py $(DATA)/mri $(SPLIT)
	$(BIN)/python tests/real/split.py $(DATA)/cxr $(SPLIT)
	$(BIN)/python -m monai.bundle run --config_file $(CONFIGS)/train.json $(SOURCES) \
	  --ckpt_dir $(OUT)-weights-1 --output_dir $(OUT)-training-1 $(STEPS)
	$(BIN)/python -m monai.bundle run --config_file "['$(CONFIGS)/train.json','$(CONFIGS)/second_cycle.json']" $(SOURCES) \
	  --init_ckpt $(OUT)-weights-1/model.pt --ckpt_dir $(OUT)-weights-2 --output_dir $(OUT)-training-2 $(STEPS)
	$(BIN)/python -m monai.bundle run --config_file "['$(CONFIGS)/train.json','$(CONFIGS)/third_cycle.json']" $(SOURCES) \
	  --init_ckpt $(OUT)-weights-2/model.pt --ckpt_dir $(OUT)-weights-3 --output_dir $(OUT)-training-3 $(STEPS)
	$(BIN)/python -m monai.bundle run --config_file "['$(CONFIGS)/train.json','$(CONFIGS)/ssim_head.json']" $(SOURCES) \
	  --init_ckpt $(OUT)-weights-3/model.pt --ckpt_dir $(OUT)-weights --output_dir $(OUT)-training $(STEPS)
	$(PAIRS) --ckpt_path $(OUT)-weights/model.pt --ckpt_dir $(OUT)-weights

# The pair head alone, from scratch, of the encoder that is shipped.
train-pairs: $(STAMP)
	@test -n "$(DATA)" || { echo "make train-pairs needs DATA=DIR, a folder with mri/manifest.csv and cxr/manifest.csv"; exit 2; }
	$(BIN)/python tests/real/split.py $(DATA)/mri $(SPLIT)
	$(BIN)/python tests/real/split.py $(DATA)/cxr $(SPLIT)
	$(PAIRS)

# The network of the same-patient score, which lies in the package: seconds. Its sha256 stands beside it in verify/same_patient.py.
train-same-patient: $(STAMP)
	@test -n "$(DATA)" || { echo "make train-same-patient needs DATA=DIR, a folder with mri, mri3d and cxr, each with manifest.csv"; exit 2; }
	$(BIN)/python tests/real/same_patient.py $(OUT)-weights/same_patient.safetensors ds002748_t1/axial:$(DATA)/mri volumes/axial:$(DATA)/mri3d \
	  volumes/coronal:$(DATA)/mri3d volumes/sagittal:$(DATA)/mri3d figshare_t1ce:$(DATA)/mri spider_spine_t2:$(DATA)/mri kermany:$(DATA)/cxr

# The contrastive rival of evaluate.json: the same data, views and steps, plain InfoNCE.
train-rival: $(STAMP)
	@test -n "$(DATA)" || { echo "make train-rival needs DATA=DIR, a folder with mri/manifest.csv and cxr/manifest.csv"; exit 2; }
	$(BIN)/python tests/real/split.py $(DATA)/mri $(SPLIT)
	$(BIN)/python tests/real/split.py $(DATA)/cxr $(SPLIT)
	$(BIN)/python -m monai.bundle run --config_file "['$(CONFIGS)/train.json','$(CONFIGS)/contrastive.json']" $(SOURCES) \
	  --ckpt_dir $(OUT)-rival --output_dir $(OUT)-rival

EXPORT := $(OUT)-export
# One ONNX file takes any batch: MONAI exports a batch of 1 unless it is told the axes.
DYNAMIC := {'input_names':['image'],'output_names':['pred'],'dynamic_axes':{'image':{0:'batch'},'pred':{0:'batch'}},'dynamo':False}

export: $(STAMP)
	mkdir -p $(EXPORT)
	$(BIN)/python -m monai.bundle ckpt_export --net_id network_def --filepath $(EXPORT)/model.ts --ckpt_file $(ENCODER)/models/model.pt \
	  --meta_file $(CONFIGS)/metadata.json --config_file $(CONFIGS)/inference.json
	$(BIN)/python -m monai.bundle onnx_export --net_id network_def --filepath $(EXPORT)/model.onnx --ckpt_file $(ENCODER)/models/model.pt \
	  --meta_file $(CONFIGS)/metadata.json --config_file $(CONFIGS)/inference.json \
	  --use_trace True --converter_kwargs "$(DYNAMIC)"
	$(BIN)/python -m monai.bundle ckpt_export --net_id network_def --filepath $(EXPORT)/model_3d.ts --ckpt_file $(ENCODER)/models/model.pt \
	  --meta_file $(CONFIGS)/metadata_3d.json --config_file $(CONFIGS)/inference_3d.json
	$(BIN)/python -m monai.bundle onnx_export --net_id network_def --filepath $(EXPORT)/model_3d.onnx --ckpt_file $(ENCODER)/models/model.pt \
	  --meta_file $(CONFIGS)/metadata_3d.json --config_file $(CONFIGS)/inference_3d.json \
	  --use_trace True --converter_kwargs "$(DYNAMIC)"
	$(BIN)/doppelscan quantize --model $(EXPORT)/model.onnx --output $(EXPORT)/model-int8.onnx

SCORER := bundles/mi_scorer/configs
REFERENCE := $(OUT)-index

# _3d for a scorer that train_3d.json fitted on volumes.
KIND :=
SCORER_FILES := --meta_file $(SCORER)/metadata$(KIND).json --config_file $(SCORER)/inference$(KIND).json

# The whole scorer, reference and all, as one file; REFERENCE is the folder that mi_scorer's train wrote.
export-scorer: $(STAMP)
	mkdir -p $(EXPORT)
	$(BIN)/python -m monai.bundle ckpt_export --net_id network_def --filepath $(EXPORT)/scorer$(KIND).ts --ckpt_file $(REFERENCE)/model.pt \
	  --reference $(REFERENCE) $(SCORER_FILES)
	$(BIN)/python -m monai.bundle onnx_export --net_id network_def --filepath $(EXPORT)/scorer$(KIND).onnx --ckpt_file $(REFERENCE)/model.pt \
	  --reference $(REFERENCE) $(SCORER_FILES) --use_trace True --converter_kwargs "$(DYNAMIC)"

LABEL := $(OUT)-label
LABEL_VENV := .venv-monailabel

# MONAI Label needs NumPy 1, so it has an environment of its own. torch is pinned in the same command, or it would pull CUDA packages.
test-monailabel: $(STAMP)
	$(BIN)/doppelscan label-app --output $(LABEL)/app
	test -x $(LABEL_VENV)/bin/monailabel || { $(PYTHON) -m venv $(LABEL_VENV) && \
	  $(LABEL_VENV)/bin/python -m pip install --quiet torch==2.13.0 -r $(LABEL)/app/requirements.txt; }
	$(BIN)/python tests/publish/monailabel_server.py --app $(LABEL)/app --environment $(LABEL_VENV) --output $(LABEL)/run

WHEEL := $(OUT)-wheel

# The built wheel in an environment of its own, without extras, in an empty folder.
test-wheel: $(STAMP)
	rm -rf $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL)/dist .
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet torch==2.13.0 $(WHEEL)/dist/*.whl
	$(BIN)/python tests/publish/bare_install.py --wheel $(WHEEL)/dist/*.whl --environment $(WHEEL)/venv --output $(WHEEL)/empty

# Warnings are errors: a link that leads nowhere, a page that is not listed, a docstring that names no parameter of its function.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check scripts tests && $(BIN)/mypy

clean:
	rm -rf $(VENV) $(LABEL_VENV) $(OUT) $(LABEL) $(WHEEL) build dist site
