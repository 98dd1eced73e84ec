/* A simulated libnvidia-ml.so.1, the first of the two places where a GPU is simulated.
 *
 * It answers from a state file that is read again at every call, so a test changes a GPU's
 * health, load or processes while programs run. Where the file is: $DCLOUD_SIMGPU_STATE, else
 * the path given at build time as -DSTATE_PATH. simgpu.py writes it and describes its format.
 *
 * The host's build lets NVIDIA_VISIBLE_DEVICES, where set, narrow the view: it stands in for the
 * device nodes that a sandbox does not pass in. In a container the state file has been narrowed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef NARROWED
#define NARROWED 0 /* 1: the state file lists only what may be seen */
#endif

enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15, UNKNOWN = 999
};
enum { MAX_GPUS = 16, MAX_MIG = 7, MAX_DEVICES = MAX_GPUS * (MAX_MIG + 1), TEXT = 96 };

typedef struct {
    int is_mig, index, minor, utilization, temperature, power_mw, mig_mode, gi, ci;
    int has_power, has_energy, busy;
    unsigned long long memory, used, energy_mj;
    char uuid[TEXT], model[TEXT], health[TEXT], bus[TEXT], pids[1024], parent_uuid[TEXT];
} device_t;

typedef struct {
    int count, gpus, init_result, hang, cuda;
    char driver[TEXT];
    device_t device[MAX_DEVICES];
} state_t;

/* A handle is a slot that keeps only the UUID: a device that vanished is then "lost". */
typedef struct { char uuid[TEXT]; } *handle_t;
static __typeof__(*(handle_t)0) slots[MAX_DEVICES];

static __thread state_t state;

/* "key=value" out of a tab-separated line; empty when absent. */
static void field(const char *line, const char *key, char *out, size_t size) {
    size_t length = strlen(key);
    out[0] = 0;
    for (const char *at = strchr(line, '\t'); at; at = strchr(at, '\t')) {
        at++;
        if (!strncmp(at, key, length) && at[length] == '=') {
            size_t end = strcspn(at + length + 1, "\t\n");
            snprintf(out, size, "%.*s", (int)end, at + length + 1);
            return;
        }
    }
}

static unsigned long long number(const char *line, const char *key) {
    char text[TEXT];
    field(line, key, text, sizeof text);
    return strtoull(text, NULL, 10);
}

static int listed(const char *list, const char *uuid, int index) {
    char copy[4096], text[16], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", list);
    snprintf(text, sizeof text, "%d", index);
    for (char *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest))
        if (!strcmp(item, "all") || !strcmp(item, uuid) || !strcmp(item, text)) return 1;
    return 0;
}

static device_t *find(const char *uuid) {
    for (int i = 0; i < state.count; i++)
        if (!strcmp(state.device[i].uuid, uuid)) return &state.device[i];
    return NULL;
}

/* What a GPU does by itself: nothing changes but the energy, which counts on with the power since
 * 2024. With busy=1 it looks as if a model were trained on it: epochs of ten minutes, each with a
 * pause to load data and one to validate. A function of the time alone, so that every process
 * sees the same, and the energy is exactly the sum of the power. */
enum { EPOCH = 600, BEGAN = 1704067200 };

static int load_at(int second) { /* percent */
    if (second < 20) return 3 + second;             /* data comes in */
    if (second >= 510 && second < 540) return 12;   /* a checkpoint is written */
    if (second >= 540) return 55 + second % 7;      /* validation */
    return 88 + (second * 7 + second / 13) % 12;    /* training */
}
static int power_at(const device_t *d, int second) { return d->power_mw + 5200 * load_at(second); }

static void work(device_t *d, int energy_given) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long milliseconds =
        (unsigned long long)(now.tv_sec - BEGAN) * 1000 + (unsigned)(now.tv_nsec / 1000000);
    if (!d->busy) {
        if (!energy_given) d->energy_mj = (unsigned long long)d->power_mw * milliseconds / 1000;
        return;
    }
    milliseconds += 1000ull * 97 * (unsigned)d->minor; /* not all in step */
    int second = (int)(milliseconds / 1000 % EPOCH);
    unsigned long long epoch = 0, part = 0;
    for (int i = 0; i < EPOCH; i++) {
        if (i == second) part = epoch;
        epoch += (unsigned)power_at(d, i);
    }
    if (!energy_given)
        d->energy_mj = milliseconds / 1000 / EPOCH * epoch + part +
                       (unsigned)power_at(d, second) * (milliseconds % 1000) / 1000;
    d->utilization = load_at(second);
    d->used = d->memory / 100 * (unsigned)(second < 20 ? 40 + second : 62 + second / 100);
    d->temperature += second < 120 ? 12 + second / 5 : d->utilization < 50 ? 24 : 37;
    d->power_mw = power_at(d, second);
}

static void parse_device(const char *line, int is_mig) {
    device_t *d = &state.device[state.count];
    memset(d, 0, sizeof *d);
    d->is_mig = is_mig;
    field(line, "uuid", d->uuid, TEXT);
    field(line, "model", d->model, TEXT);
    field(line, "health", d->health, TEXT);
    field(line, "bus", d->bus, TEXT);
    field(line, "pids", d->pids, sizeof d->pids);
    field(line, "parent", d->parent_uuid, TEXT);
    d->memory = number(line, "memory");
    d->used = number(line, "used");
    d->minor = (int)number(line, "minor");
    d->utilization = (int)number(line, "utilization");
    d->temperature = (int)number(line, "temperature");
    d->power_mw = (int)number(line, "power_mw");
    d->mig_mode = (int)number(line, "mig");
    d->gi = (int)number(line, "gi");
    d->ci = (int)number(line, "ci");
    d->index = is_mig ? -1 : state.gpus++;
    char text[TEXT];
    field(line, "power_mw", text, TEXT);
    d->has_power = strcmp(text, "none") != 0;
    field(line, "energy_mj", text, TEXT);
    d->has_energy = strcmp(text, "none") != 0;
    d->energy_mj = strtoull(text, NULL, 10);
    d->busy = (int)number(line, "busy");
    if (!is_mig) work(d, *text != 0);
    state.count++;
}

/* Removes what NVIDIA_VISIBLE_DEVICES hides: a GPU stays if it or one of its instances is named. */
static void hide(const char *visible) {
    state_t all = state;
    int stays[MAX_DEVICES] = {0};
    for (int i = 0; i < all.count; i++) {
        device_t *d = &all.device[i];
        if (!listed(visible, d->uuid, d->index)) continue;
        stays[i] = 1;
        for (int j = 0; j < all.count; j++) {
            device_t *other = &all.device[j];
            if (d->is_mig && !strcmp(other->uuid, d->parent_uuid)) stays[j] = 1;
            if (!d->is_mig && other->is_mig && !strcmp(other->parent_uuid, d->uuid)) stays[j] = 1;
        }
    }
    state.count = state.gpus = 0;
    for (int i = 0; i < all.count; i++) {
        if (!stays[i]) continue;
        state.device[state.count] = all.device[i];
        if (!all.device[i].is_mig) state.device[state.count].index = state.gpus++;
        state.count++;
    }
}

static int load(void) {
    const char *path = getenv("DCLOUD_SIMGPU_STATE");
    const char *visible = NARROWED ? NULL : getenv("NVIDIA_VISIBLE_DEVICES");
    char line[4096];
    FILE *file = fopen(path && *path ? path : STATE_PATH, "re");
    memset(&state, 0, sizeof state);
    if (!file) return UNKNOWN;
    while (fgets(line, sizeof line, file)) {
        if (state.count == MAX_DEVICES) break;
        if (!strncmp(line, "driver\t", 7)) {
            field(line, "version", state.driver, TEXT);
            state.cuda = (int)number(line, "cuda");
            state.init_result = (int)number(line, "init");
            state.hang = (int)number(line, "hang");
        } else if (!strncmp(line, "gpu\t", 4)) parse_device(line, 0);
        else if (!strncmp(line, "mig\t", 4)) parse_device(line, 1);
    }
    fclose(file);
    if (visible && *visible) hide(visible);
    while (state.hang) sleep(3600); /* a driver that never returns, as with a GPU off the bus */
    return state.init_result;
}

/* The device behind a handle, after reading the state again. `basic` calls work on a dying GPU. */
static int open_device(handle_t handle, device_t **out, int basic) {
    int result = load();
    if (result) return result;
    if (!handle) return INVALID_ARGUMENT;
    device_t *d = find(handle->uuid);
    if (!d) return GPU_IS_LOST;
    device_t *owner = d->is_mig ? find(d->parent_uuid) : d;
    if (!owner || !strcmp(owner->health, "lost")) return GPU_IS_LOST;
    if (!basic && !strcmp(owner->health, "dying")) return GPU_IS_LOST;
    if (d->is_mig) memcpy(d->health, owner->health, TEXT);
    *out = d;
    return SUCCESS;
}

static handle_t slot_of(const char *uuid) {
    for (int i = 0; i < MAX_DEVICES; i++) {
        if (!slots[i].uuid[0]) snprintf(slots[i].uuid, TEXT, "%s", uuid);
        if (!strcmp(slots[i].uuid, uuid)) return &slots[i];
    }
    return NULL;
}

static int put(const char *text, char *out, unsigned size) {
    if (strlen(text) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

#define API __attribute__((visibility("default")))
#define DEVICE(handle, basic)                                                                      \
    device_t *d = NULL;                                                                            \
    int opened = open_device(handle, &d, basic);                                                   \
    if (opened) return opened
#define GPU_ONLY(handle)                                                                           \
    DEVICE(handle, 0);                                                                             \
    if (d->is_mig) return NOT_SUPPORTED

API int nvmlInitWithFlags(unsigned flags) { (void)flags; return load(); }
API int nvmlInit_v2(void) { return load(); }
API int nvmlInit(void) { return load(); }
API int nvmlShutdown(void) { return SUCCESS; }

API const char *nvmlErrorString(int result) {
    switch (result) {
    case SUCCESS: return "Success";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case 9: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

API int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    int result = load();
    return result ? result : put(state.driver, out, size);
}
API int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    return nvmlSystemGetDriverVersion(out, size);
}
API int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    int result = load();
    *out = state.cuda;
    return result;
}
API int nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

API int nvmlDeviceGetCount_v2(unsigned *out) {
    int result = load();
    *out = (unsigned)state.gpus;
    return result;
}
API int nvmlDeviceGetCount(unsigned *out) { return nvmlDeviceGetCount_v2(out); }

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle_t *out) {
    int result = load();
    if (result) return result;
    for (int i = 0; i < state.count; i++) {
        device_t *d = &state.device[i];
        if (d->is_mig || d->index != (int)index) continue;
        if (!strcmp(d->health, "lost")) return GPU_IS_LOST;
        *out = slot_of(d->uuid);
        return SUCCESS;
    }
    return INVALID_ARGUMENT;
}
API int nvmlDeviceGetHandleByIndex(unsigned index, handle_t *out) {
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

API int nvmlDeviceGetHandleByUUID(const char *uuid, handle_t *out) {
    int result = load();
    if (result) return result;
    device_t *d = find(uuid);
    if (!d) return NOT_FOUND;
    if (!strcmp(d->health, "lost")) return GPU_IS_LOST;
    *out = slot_of(uuid);
    return SUCCESS;
}

API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, handle_t *out) {
    int result = load();
    if (result) return result;
    for (int i = 0; i < state.count; i++)
        if (!state.device[i].is_mig && !strcmp(state.device[i].bus, bus))
            return nvmlDeviceGetHandleByUUID(state.device[i].uuid, out);
    return NOT_FOUND;
}

API int nvmlDeviceGetUUID(handle_t handle, char *out, unsigned size) {
    DEVICE(handle, 1);
    return put(d->uuid, out, size);
}
API int nvmlDeviceGetName(handle_t handle, char *out, unsigned size) {
    DEVICE(handle, 0);
    return put(d->model, out, size);
}
API int nvmlDeviceGetIndex(handle_t handle, unsigned *out) {
    GPU_ONLY(handle);
    *out = (unsigned)d->index;
    return SUCCESS;
}
API int nvmlDeviceGetMinorNumber(handle_t handle, unsigned *out) {
    GPU_ONLY(handle);
    *out = (unsigned)d->minor;
    return SUCCESS;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
} pci_t;
API int nvmlDeviceGetPciInfo_v3(handle_t handle, pci_t *out) {
    GPU_ONLY(handle);
    memset(out, 0, sizeof *out);
    sscanf(d->bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04x:%02x:%02x.0", out->domain & 0xffff,
             out->bus & 0xff, out->device & 0xff);
    snprintf(out->id, sizeof out->id, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
    return SUCCESS;
}

typedef struct { unsigned long long total, free, used; } memory_t;
API int nvmlDeviceGetMemoryInfo(handle_t handle, memory_t *out) {
    DEVICE(handle, 0);
    *out = (memory_t){d->memory, d->memory - d->used, d->used};
    return SUCCESS;
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
API int nvmlDeviceGetMemoryInfo_v2(handle_t handle, memory_v2_t *out) {
    DEVICE(handle, 0);
    *out = (memory_v2_t){out->version, d->memory, 0, d->memory - d->used, d->used};
    return SUCCESS;
}

API int nvmlDeviceGetUtilizationRates(handle_t handle, unsigned out[2]) {
    GPU_ONLY(handle);
    out[0] = (unsigned)d->utilization;
    out[1] = d->memory ? (unsigned)(100 * d->used / d->memory) : 0;
    return SUCCESS;
}
API int nvmlDeviceGetTemperature(handle_t handle, int sensor, unsigned *out) {
    GPU_ONLY(handle);
    (void)sensor;
    *out = (unsigned)d->temperature;
    return SUCCESS;
}
API int nvmlDeviceGetTotalEnergyConsumption(handle_t handle, unsigned long long *out) {
    GPU_ONLY(handle);
    if (!d->has_energy) return NOT_SUPPORTED;
    *out = d->energy_mj;
    return SUCCESS;
}
API int nvmlDeviceGetPowerUsage(handle_t handle, unsigned *out) {
    GPU_ONLY(handle);
    if (!d->has_power) return NOT_SUPPORTED;
    *out = (unsigned)d->power_mw;
    return SUCCESS;
}

typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process_t;
API int nvmlDeviceGetComputeRunningProcesses_v3(handle_t handle, unsigned *count, process_t *out) {
    DEVICE(handle, 0);
    unsigned found = 0, room = *count, pid;
    unsigned long long memory;
    int used = 0;
    for (char *at = d->pids; sscanf(at, "%u:%llu%n", &pid, &memory, &used) == 2; found++) {
        if (out && found < room)
            out[found] = (process_t){pid, memory, d->is_mig ? (unsigned)d->gi : 0xffffffffu,
                                     d->is_mig ? (unsigned)d->ci : 0xffffffffu};
        at += used;
        if (*at == ',') at++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(handle_t handle, unsigned *count, process_t *out) {
    DEVICE(handle, 0);
    (void)out;
    *count = 0;
    return SUCCESS;
}

API int nvmlDeviceGetEccMode(handle_t handle, unsigned *current, unsigned *pending) {
    GPU_ONLY(handle);
    *current = *pending = 1;
    return SUCCESS;
}
/* type: 0 corrected, 1 uncorrected. */
API int nvmlDeviceGetTotalEccErrors(handle_t handle, int type, int counter,
                                    unsigned long long *out) {
    GPU_ONLY(handle);
    (void)counter;
    *out = type == 1 && !strcmp(d->health, "ecc") ? 2 : 0;
    return SUCCESS;
}
API int nvmlDeviceGetMemoryErrorCounter(handle_t handle, int type, int counter, int location,
                                        unsigned long long *out) {
    (void)location;
    return nvmlDeviceGetTotalEccErrors(handle, type, counter, out);
}
API int nvmlDeviceGetRemappedRows(handle_t handle, unsigned *corrected, unsigned *uncorrected,
                                  unsigned *pending, unsigned *failed) {
    GPU_ONLY(handle);
    *corrected = 0;
    *uncorrected = *pending = !strcmp(d->health, "remap-pending");
    *failed = !strcmp(d->health, "remap-failed");
    return SUCCESS;
}
API int nvmlDeviceGetRetiredPagesPendingStatus(handle_t handle, unsigned *out) {
    GPU_ONLY(handle);
    *out = !strcmp(d->health, "retire-pending");
    return SUCCESS;
}

API int nvmlDeviceGetMigMode(handle_t handle, unsigned *current, unsigned *pending) {
    GPU_ONLY(handle);
    *current = *pending = (unsigned)d->mig_mode;
    return SUCCESS;
}
API int nvmlDeviceGetMaxMigDeviceCount(handle_t handle, unsigned *out) {
    GPU_ONLY(handle);
    *out = MAX_MIG;
    return SUCCESS;
}
API int nvmlDeviceGetMigDeviceHandleByIndex(handle_t handle, unsigned index, handle_t *out) {
    GPU_ONLY(handle);
    unsigned seen = 0;
    for (int i = 0; i < state.count; i++) {
        device_t *mig = &state.device[i];
        if (!mig->is_mig || strcmp(mig->parent_uuid, d->uuid) || seen++ != index) continue;
        *out = slot_of(mig->uuid);
        return SUCCESS;
    }
    return index < MAX_MIG ? NOT_FOUND : INVALID_ARGUMENT;
}
API int nvmlDeviceIsMigDeviceHandle(handle_t handle, unsigned *out) {
    DEVICE(handle, 1);
    *out = (unsigned)d->is_mig;
    return SUCCESS;
}
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle_t handle, handle_t *out) {
    DEVICE(handle, 0);
    if (!d->is_mig) return INVALID_ARGUMENT;
    *out = slot_of(d->parent_uuid);
    return SUCCESS;
}
API int nvmlDeviceGetGpuInstanceId(handle_t handle, unsigned *out) {
    DEVICE(handle, 0);
    if (!d->is_mig) return INVALID_ARGUMENT;
    *out = (unsigned)d->gi;
    return SUCCESS;
}
API int nvmlDeviceGetComputeInstanceId(handle_t handle, unsigned *out) {
    DEVICE(handle, 0);
    if (!d->is_mig) return INVALID_ARGUMENT;
    *out = (unsigned)d->ci;
    return SUCCESS;
}
