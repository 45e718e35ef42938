/* One row of activations times int4 weights in groups: what a step of decoding would cost with a kernel of our own.

   Weights of 16 outputs lie together: 64 bytes hold 8 inputs of each, the first four in the low halves of the bytes and the
   others in the high ones, so that one load feeds two VPDPBUSD. A group has one float32 scale for each output. Activations are
   rounded to int8 in the same groups, as MatMulNBits does with accuracy_level 4. */
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *codes;  /* [out / 16][in / 8][64] */
    const float *scales;   /* [out / 16][in / group][16] */
    int out, in, group;
} Product;

typedef struct {
    int8_t values[1 << 14];
    float scales[1 << 9];  /* of each group */
    int sums[1 << 9];      /* 8 times the sum of a group's values: what the codes' zero point adds */
} Rounded;

static void round_activations(const float *x, int in, int group, Rounded *to) {
    for (int g = 0; g < in / group; g++) {
        const float *part = x + g * group;
        __m512 most = _mm512_setzero_ps();
        for (int i = 0; i < group; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(part + i)));
        float scale = _mm512_reduce_max_ps(most) / 127.0f;
        __m512 inverse = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < group; i += 16) {
            __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(part + i), inverse));
            sum = _mm512_add_epi32(sum, code);
            _mm_storeu_si128((__m128i *)(to->values + g * group + i), _mm512_cvtsepi32_epi8(code));
        }
        to->scales[g] = scale;
        to->sums[g] = 8 * _mm512_reduce_add_epi32(sum);
    }
}

static void multiply(const Product *p, const Rounded *x, float *y, int first, int last) {
    const __m512i low = _mm512_set1_epi8(15);
    int groups = p->in / p->group, steps = p->group / 8;
    for (int tile = first; tile < last; tile++) {
        const uint8_t *codes = p->codes + (size_t)tile * p->in / 8 * 64;
        const float *scales = p->scales + (size_t)tile * groups * 16;
        __m512 total = _mm512_setzero_ps();
        for (int g = 0; g < groups; g++) {
            __m512i even = _mm512_set1_epi32(-x->sums[g]), odd = _mm512_setzero_si512();
            const int32_t *values = (const int32_t *)(x->values + g * p->group);
            for (int s = 0; s < steps; s++, codes += 64) {
                __m512i both = _mm512_loadu_si512(codes);
                _mm_prefetch((const char *)codes + 1024, _MM_HINT_T0);
                even = _mm512_dpbusd_epi32(even, _mm512_and_si512(both, low), _mm512_set1_epi32(values[2 * s]));
                odd = _mm512_dpbusd_epi32(
                    odd, _mm512_and_si512(_mm512_srli_epi16(both, 4), low), _mm512_set1_epi32(values[2 * s + 1]));
            }
            __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(scales + 16 * g), _mm512_set1_ps(x->scales[g]));
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(even, odd)), scale, total);
        }
        _mm512_storeu_ps(y + 16 * tile, total);
    }
}

/* A step: every product in turn, its outputs shared out over threads that wait for each other by looking. */
typedef struct {
    const Product *products;
    const float *x;
    float *y;
    int count, threads, repeats;
    atomic_int arrived, turn;
} Step;

typedef struct {
    Step *step;
    int number;
} Worker;

static void wait_for_all(Step *s) {
    int turn = atomic_load(&s->turn);
    if (atomic_fetch_add(&s->arrived, 1) == s->threads - 1) {
        atomic_store(&s->arrived, 0);
        atomic_fetch_add(&s->turn, 1);
    } else
        while (atomic_load(&s->turn) == turn) _mm_pause();
}

static void *work(void *argument) {
    Worker *w = argument;
    Step *s = w->step;
    static _Thread_local Rounded rounded;
    for (int r = 0; r < s->repeats; r++)
        for (int i = 0; i < s->count; i++) {
            const Product *p = s->products + i;
            int tiles = p->out / 16;
            round_activations(s->x, p->in, p->group, &rounded);
            multiply(p, &rounded, s->y, tiles * w->number / s->threads, tiles * (w->number + 1) / s->threads);
            if (s->threads > 1) wait_for_all(s);
        }
    return NULL;
}

void run(const Product *products, int count, const float *x, float *y, int threads, int repeats) {
    Step step = {products, x, y, count, threads, repeats, 0, 0};
    Worker workers[64];
    pthread_t others[64];
    for (int t = threads - 1; t >= 0; t--) {
        workers[t] = (Worker){&step, t};
        if (t)
            pthread_create(&others[t], NULL, work, &workers[t]);
        else
            work(&workers[0]);
    }
    for (int t = 1; t < threads; t++) pthread_join(others[t], NULL);
}
