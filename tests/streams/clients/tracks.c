/* Print the tracks of every frame: ./tracks tcp://127.0.0.1:5556
 * Build: cc -o tracks tracks.c -lzmq
 * One line per track: frame id y_px x_px. Ends with the run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* The integer after "key": in a flat JSON header; a real program uses a JSON library. */
static long number(const char *header, const char *key) {
    const char *found = strstr(header, key);
    return found == NULL ? -1 : strtol(found + strlen(key), NULL, 10);
}

/* Position of a column's name in "columns":[...]. */
static long column(const char *header, const char *name) {
    const char *list = strstr(header, "\"columns\":[");
    const char *found = strstr(list, name);
    long index = 0;
    for (const char *at = list; at < found; at++) index += *at == ',';
    return index;
}

static char *receive(void *socket, size_t *size) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, 0) < 0) exit(1);
    *size = zmq_msg_size(&part);
    char *copy = calloc(*size + 1, 1); /* ends with 0, aligned for doubles */
    memcpy(copy, zmq_msg_data(&part), *size);
    zmq_msg_close(&part);
    return copy;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_SUB);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "tracks", 6);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "end", 3);
    if (zmq_connect(socket, argv[1]) != 0) return 1;
    for (int is_running = 1; is_running;) {
        size_t size;
        char *topic = receive(socket, &size);
        char *header = receive(socket, &size);
        double *matrix = (double *)receive(socket, &size);
        is_running = strcmp(topic, "end") != 0;
        if (is_running) {
            long n = number(header, "\"n\":"), frame = number(header, "\"frame\":");
            const double *id = matrix + n * column(header, "\"track_id\"");
            const double *y = matrix + n * column(header, "\"y_px\"");
            const double *x = matrix + n * column(header, "\"x_px\"");
            for (long i = 0; i < n; i++)
                printf("%ld %.0f %.17g %.17g\n", frame, id[i], y[i], x[i]);
        }
        free(topic);
        free(header);
        free(matrix);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}
