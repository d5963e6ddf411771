{{- define "policy-engine.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "policy-engine.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "policy-engine.labels" -}}
{{ include "policy-engine.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "policy-engine.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "policy-engine.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "policy-engine.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The settings file; what the chart sets goes before what values.settings has. */}}
{{- define "policy-engine.settings" -}}
{{- $set := dict "workers" (int .Values.workers) "drain_timeout" (printf "%ds" (int .Values.drainSeconds)) }}
{{- $_ := set $set "health" (dict "listen" "0.0.0.0:9004") }}
{{- if eq .Values.mode "sidecar" }}
{{- $_ := set $set "listen" (list (printf "unix:%s/engine.sock?mode=0660&group=%d" .Values.sidecar.socketDirectory (int .Values.sidecar.envoyGroup))) }}
{{- else }}
{{- $_ := set $set "listen" (list "0.0.0.0:9002") }}
{{- if .Values.tls.secret }}
{{- $tls := dict "cert" "/etc/policy-engine-tls/tls.crt" "key" "/etc/policy-engine-tls/tls.key" }}
{{- if .Values.tls.clientAuth }}{{ $_ := set $tls "client_ca" "/etc/policy-engine-tls/ca.crt" }}{{ end }}
{{- if .Values.tls.clientNames }}{{ $_ := set $tls "client_names" .Values.tls.clientNames }}{{ end }}
{{- $_ := set $set "tls" $tls }}
{{- end }}
{{- end }}
{{- if .Values.controlPlane.server }}
{{- $xds := dict "server" .Values.controlPlane.server "last_known_good" "/tmp/last-known-good.json" }}
{{- if .Values.controlPlane.tlsSecret }}
{{- $_ := set $xds "tls" (dict "ca" "/etc/policy-engine-xds/ca.crt" "cert" "/etc/policy-engine-xds/tls.crt" "key" "/etc/policy-engine-xds/tls.key") }}
{{- end }}
{{- $_ := set $set "configuration" "xds" }}
{{- $_ := set $set "xds" $xds }}
{{- else }}
{{- $_ := set $set "chains" "/etc/policy-engine-chains" }}
{{- end }}
{{- if and .Values.secrets.existingSecret (not (hasKey .Values.settings "secrets")) }}
{{- $_ := set $set "secrets" (dict "directories" (list "/run/secrets/policy-engine")) }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy .Values.settings) $set) }}
{{- end }}

{{- define "policy-engine.volumeMounts" -}}
- name: settings
  mountPath: /etc/policy-engine
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if not .Values.controlPlane.server }}
- name: chains
  mountPath: /etc/policy-engine-chains
  readOnly: true
{{- end }}
{{- if and .Values.controlPlane.server .Values.controlPlane.tlsSecret }}
- name: xds-tls
  mountPath: /etc/policy-engine-xds
  readOnly: true
{{- end }}
{{- if .Values.secrets.existingSecret }}
- name: secrets
  mountPath: /run/secrets/policy-engine
  readOnly: true
{{- end }}
{{- if and .Values.tls.secret (eq .Values.mode "service") }}
- name: tls
  mountPath: /etc/policy-engine-tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "policy-engine.volumes" -}}
- name: settings
  configMap:
    name: {{ include "policy-engine.name" . }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if not .Values.controlPlane.server }}
- name: chains
  configMap:
    name: {{ .Values.chains.existingConfigMap | default (printf "%s-chains" (include "policy-engine.name" .)) }}
{{- end }}
{{- if and .Values.controlPlane.server .Values.controlPlane.tlsSecret }}
- name: xds-tls
  secret:
    secretName: {{ .Values.controlPlane.tlsSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.secrets.existingSecret }}
- name: secrets
  secret:
    secretName: {{ .Values.secrets.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if and .Values.tls.secret (eq .Values.mode "service") }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Everything of a container but its ports, probes of traffic and resources. */}}
{{- define "policy-engine.container" -}}
image: {{ include "policy-engine.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
startupProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
{{- end }}
