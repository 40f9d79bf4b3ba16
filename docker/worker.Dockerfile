# The workers, beat and Flower. No web framework in here, and no compiler.
FROM python:3.12-slim-bookworm AS build
RUN python -m venv --without-pip /opt/venv
COPY requirements/worker.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python --disable-pip-version-check install --require-hashes -r /tmp/worker.txt
# A fifth of it all are these packages' own tests.
RUN cd /opt/venv/lib/python3.12/site-packages \
 && find numpy scipy sklearn joblib -type d \( -name tests -o -name test \) -prune -exec rm -r {} +
WORKDIR /srv/postroom
COPY docker/healthy.py /usr/local/bin/
COPY shared shared
COPY worker worker
# Whatever umask the files were checked out with.
RUN chmod -R a+rX . /usr/local/bin/healthy.py && python -m compileall -q .

FROM python:3.12-slim-bookworm
# scikit-learn's OpenMP comes along in its wheel. A volume takes its owner from the folder here.
RUN useradd --uid 10001 --home-dir /srv/postroom --shell /usr/sbin/nologin postroom \
 && install -d -o 10001 -g 10001 /var/lib/postroom /var/lib/postroom/beat /var/lib/postroom/flower
COPY --from=build /opt/venv /opt/venv
COPY --from=build /usr/local/bin/healthy.py /usr/local/bin/
COPY --from=build /srv/postroom /srv/postroom
WORKDIR /srv/postroom
USER 10001:10001
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "/usr/local/bin/healthy.py", "connected", "5671", "5672"]
CMD ["python", "-m", "worker"]
