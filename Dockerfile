# One image for nodes (`mirrorneuron worker`), the dashboard and every other command.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/mirrorneuron \
 && /opt/mirrorneuron/bin/pip install --no-cache-dir --disable-pip-version-check -q .

FROM python:3.12-slim
# Agents run the commands of bundles. Their user owns only its home and the folder for temporary files.
RUN useradd --system --uid 10001 --create-home mirrorneuron \
 && install -d -o mirrorneuron -g mirrorneuron /var/lib/mirrorneuron
COPY --from=build /opt/mirrorneuron /opt/mirrorneuron
ENV PATH=/opt/mirrorneuron/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MIRROR_NEURON_TEMP_DIR=/var/lib/mirrorneuron \
    MIRROR_NEURON_PASS_ENV=
USER mirrorneuron
WORKDIR /home/mirrorneuron
STOPSIGNAL SIGTERM
CMD ["mirrorneuron", "worker"]
