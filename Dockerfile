# mmssl with all systems and the demo page. TORCH is the name of an index of pytorch.org.
#
#   docker build -t mmssl .                                 # CPU
#   docker build -t mmssl --build-arg TORCH=cu128 .         # CUDA; run it with --gpus all
#   docker run --rm -v "$PWD":/data mmssl segment /data/photo.jpg --auto --out /data/masks
#   docker run --rm -p 7860:7860 mmssl demo --host 0.0.0.0 --auth USER:PASSWORD --no-browser
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG TORCH=cpu
# libraries that OpenCV loads
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mmssl
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE model-index.yml ./
RUN pip install --no-cache-dir torch torchvision -c constraints.txt \
    --index-url https://download.pytorch.org/whl/${TORCH}
COPY configs configs
COPY tools tools
COPY mmssl mmssl
RUN pip install --no-cache-dir -e '.[onedl,det,seg,prompt,demo,page]' -c constraints.txt
# not root, so that files in mounted folders do not belong to root; -u changes the user
RUN useradd --create-home --uid 1000 mmssl
USER mmssl
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["mmssl"]
CMD ["--help"]
