# ALARM in a container. GPU (the default) and CPU:
#   docker build -t alarm .
#   docker build -t alarm-cpu --build-arg DEVICE=cpu .
#   docker build -t alarm-cu12 --build-arg CUDA=12.8 .          # a driver of the CUDA 12 series
#   docker run --gpus all --ipc=host -v "$PWD/data:/alarm/data" -v "$PWD/saved:/alarm/saved" alarm python train.py …
#   docker run alarm-cpu ./quickstart.sh
# The GPU image needs no CUDA base image: the wheels bring their CUDA libraries, the host brings the driver.
FROM python:3.11-slim-bookworm

ARG DEVICE=gpu
ARG CUDA=

# ffmpeg's libraries for torchcodec, git for the run record, a compiler for the kernels that torch and vLLM build at run time
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg git g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /alarm
ENV PATH=/alarm/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/alarm/data/hub

# The environment first: a change of the code does not install it again
COPY requirements*.txt ./
COPY scripts/setup_env.sh scripts/
# The variable lets the script compile the packages: who runs the image may not write there.
RUN PYTHONDONTWRITEBYTECODE=1 scripts/setup_env.sh --$DEVICE ${CUDA:+--cuda $CUDA}

COPY . .
# the entry point by which `vllm serve` finds the models
RUN .venv/bin/uv pip install -q --no-deps --no-build-isolation -e .
CMD ["bash"]
