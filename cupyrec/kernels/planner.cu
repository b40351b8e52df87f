// The planner's work on its arrays, as cupyrec/pipeline/planner_kernels.py does it on the host: plan for plan the same.
//
// A *node* stands for a row that is in the scratchpad or is used by a batch of the window. nodes: (nodes, 8) int32, a
// sector of 32 bytes each, see the names below; node_rows: (nodes,) int64, -1 for a node that is free. free_nodes:
// (nodes,) int32, a stack of the nodes that were used and are free again. Which node a row gets depends on timing; no
// plan does.
//
// A node whose row may leave is *listed*: in the list of its rank (see pipeline/replacement.py) when no next use is
// known, else in that of the batch of its next use. A listed row is in the scratchpad, so what lists are made of stands
// by slot: slot_list (slots,) int32, the list or NONE; slot_since (slots,) uint64, a number that grows with every listing,
// so that the order of a list is that of its numbers; slot_node (slots,) int32, whose slot it is. lists: (RANKS + ring,)
// int32, how many are in each list. The *order* of a list says when it is its turn to leave: ranks are their own order,
// then come the next uses from the furthest known batch on.
//
// window: (window_size, 2) int32, a ring, its size a power of two: for each unique row of each known batch its node and
// the batch that uses it next. state: (STATE_SIZE,) int32 and cut: (1,) uint64: what kernels leave for later ones.
//
// A batch of U unique rows costs O(U), about 200 bytes of random access each in `look` and in `evict` and 100 in `use`,
// `release` and `assign`; and where rows leave, slot_list is read (4 bytes a slot), once and, where one list is left in
// part, once more for each digit that cuts it, each time with slot_since (8 bytes a slot) of that list.

#include "hit_map.cuh"
#include "scan.cuh"

// As in pipeline/replacement.py.
#define RANKS 512
#define EXACT_COUNTS 64
#define BY_AGE 1
#define BY_CHANCE 2
// As in pipeline/planner_kernels.py.
#define NONE (-1)
#define NEVER 2147483647

// Fields of a node: where the row is; the next batch to be planned that uses it; the last batch planned that used it; the
// latest known batch that uses it; where in the window it is listed there; how often it was used; the list it is in.
enum { SLOT, NEXT_USE, LAST_USE, SEEN, SEEN_AT, COUNT, LIST, NODE_FIELDS = 8 };

// state, as in pipeline/gpu_planner.py.
//   HANDED_OUT   nodes handed out from the fresh ones
//   FREE         nodes on the stack of free ones; below 0: that many fresh ones more were handed out
//   FILLED       slots filled so far
//   PLACES       places of the hit map that are not empty
// and of the batch that is planned:
//   IS_OK        whether there is room; else nothing after find_room does anything
//   MISSED, EVICTED, UNUSED   rows that miss; that leave; that leave and have no known use
//   FIRST, TAKEN the first empty slot that it gets, and how many
//   BOUNDARY     the order of the last list that rows leave from, NONE when none leave; NEEDED: how many of that list
//   IN_PART      whether so few of it leave that they have to be looked for
//   CHOSEN       rows that may be among those that leave: all that are, and a few more
enum {
    HANDED_OUT, FREE, FILLED, PLACES, IS_OK, MISSED, EVICTED, UNUSED, FIRST, TAKEN, BOUNDARY, NEEDED, IN_PART, CHOSEN,
    STATE_SIZE = 16
};

// The number of a row, as in pipeline/replacement.py.
__device__ __forceinline__ int rank_of(int kind, int64 row, int count, int last_use, uint64 seed) {
    if (kind == BY_AGE) return 0;
    if (kind == BY_CHANCE) {
        uint64 z = (uint64)row + (uint64)last_use * 0x9E3779B97F4A7C15ull + seed;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return (int)((z ^ (z >> 31)) & (RANKS - 1));
    }
    if (count < EXACT_COUNTS) return count;
    // The four leading bits, of which the first is 1: 8 to 15.
    const int octave = 28 - __clz(count);
    return EXACT_COUNTS + (octave - 3) * 8 + (count >> octave) - 8;
}

__device__ __forceinline__ int list_of_batch(int batch, int ring) { return RANKS + (batch & (ring - 1)); }

__device__ __forceinline__ int list_at(int order, int furthest, int ring) {
    return order < RANKS ? order : list_of_batch(furthest - (order - RANKS), ring);
}

__device__ __forceinline__ int order_of(int list, int furthest, int ring) {
    return list < RANKS ? list : RANKS + ((furthest - (list - RANKS)) & (ring - 1));
}

// counts[which] += one for each lane, or -1; nothing where `which` is NONE. One lane counts for all that have its list:
// else the lanes of the few long lists would wait for each other. The whole warp calls it.
__device__ __forceinline__ void count_lanes(int* counts, int which, int one) {
    const unsigned peers = __match_any_sync(ALL_LANES, which);
    if (which != NONE && (peers & lanes_before()) == 0) atomicAdd(&counts[which], one * __popc(peers));
}

// Take in the unique rows of a batch beyond those known, and link each from its latest use before.
//
// rows: (unique,) int64, each another; start: where the batch begins in the window; batch: its number; planned: batches
// planned so far; since: of the first row that is listed here, rows after it count on from there. row_counts: (R,) int32;
// counted: 0 where it is not meant and counts are kept while running. Modified: all that is not const. One thread a row.
extern "C" __global__ void look(
    const int64* __restrict__ rows, int unique, int batch, int planned, int64 start, uint64 since, int64* cells,
    int shift, int* nodes, int64* __restrict__ node_rows, const int* __restrict__ free_nodes, int* lists, int ring,
    int* window, int window_size, int* __restrict__ slot_list, uint64* __restrict__ slot_since,
    const int* __restrict__ row_counts, int counted, int* state) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    const int handed_out = state[HANDED_OUT];
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < unique; first += stride) {
        const int64 i = first + threadIdx.x;
        const bool is_row = i < unique;
        const int64 row = is_row ? rows[i] : 0;
        const int64 found = is_row ? hit_map_find(cells, shift, row) : 0;
        const bool is_new = found < 0;
        // The last of the free nodes; after the first of them, fresh ones.
        const int left = warp_reserve(&state[FREE], is_new, -1);
        int node = 0;
        bool one_more = false;
        if (is_new) {
            node = left > 0 ? free_nodes[left - 1] : handed_out - left;
            one_more = hit_map_insert(cells, shift, row, node);
            node_rows[node] = row;
        } else if (is_row) {
            node = (int)cells[2 * found + 1];
        }
        warp_reserve(&state[PLACES], one_more, 1);

        int from = NONE;
        if (is_row) {
            int* const fields = nodes + (int64)node * NODE_FIELDS;
            const int at = (int)((start + i) & (window_size - 1));
            if (is_new) {
                fields[SLOT] = NONE;
                fields[NEXT_USE] = batch;
                fields[LAST_USE] = NONE;
                fields[COUNT] = counted ? row_counts[row] : 0;
                fields[LIST] = NONE;
            } else if (fields[SEEN] >= planned) {
                window[2 * (int64)fields[SEEN_AT] + 1] = batch;
            } else {
                fields[NEXT_USE] = batch;
                from = fields[LIST];
                if (from != NONE) {
                    const int to = list_of_batch(batch, ring), slot = fields[SLOT];
                    fields[LIST] = to;
                    slot_list[slot] = to;
                    slot_since[slot] = since + i;
                }
            }
            fields[SEEN] = batch;
            fields[SEEN_AT] = at;
            window[2 * (int64)at] = node;
            window[2 * (int64)at + 1] = NEVER;
        }
        count_lanes(lists, from, -1);
        count_lanes(lists, from == NONE ? NONE : list_of_batch(batch, ring), 1);
    }
}

// Mark the rows of a batch as used by it. counting: 1 where counts are kept while running.
//
// unique_slots: (unique,) int32, overwritten: the slot of each, NONE where it misses. tile_misses: (tiles,) int32,
// overwritten: how many of each tile miss. nodes, slot_list: modified; how many are in the list of this batch is left to
// find_room: none. Grid: tiles of scan.cuh.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) use(
    int batch, int64 start, int unique, int* nodes, const int* __restrict__ window, int window_size,
    int* __restrict__ slot_list, int counting, int* unique_slots, int* __restrict__ tile_misses) {
    __shared__ int shared[WARP];
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const unsigned item = tile_item(round);
        if (item >= (unsigned)unique) continue;
        const int64 at = (start + item) & (window_size - 1);
        int* const fields = nodes + (int64)window[2 * at] * NODE_FIELDS;
        const int slot = fields[SLOT];
        if (fields[LIST] != NONE) {
            slot_list[slot] = NONE;
            fields[LIST] = NONE;
        }
        fields[NEXT_USE] = window[2 * at + 1];
        fields[LAST_USE] = batch;
        if (counting) ++fields[COUNT];
        unique_slots[item] = slot;
    }
    const int missed = kept_in_tile(unique, [=](int item) { return unique_slots[item] == NONE; }, shared);
    if (threadIdx.x == 0) tile_misses[blockIdx.x] = missed;
}

// A batch is held no longer: its rows that no later one has used may leave. since: of its first row, others count on
// from there. nodes, lists, slot_list, slot_since: modified. One thread a row.
extern "C" __global__ void release(
    int batch, int64 start, int unique, uint64 since, int* nodes, const int64* __restrict__ node_rows, int* lists,
    int ring, const int* __restrict__ window, int window_size, int* __restrict__ slot_list,
    uint64* __restrict__ slot_since, int kind, uint64 seed) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < unique; first += stride) {
        const int64 i = first + threadIdx.x;
        int to = NONE;
        if (i < unique) {
            const int node = window[2 * ((start + i) & (window_size - 1))];
            int* const fields = nodes + (int64)node * NODE_FIELDS;
            const int slot = fields[SLOT];
            if (fields[LAST_USE] == batch && slot != NONE && fields[LIST] == NONE) {
                const int next_use = fields[NEXT_USE];
                to = next_use == NEVER ? rank_of(kind, node_rows[node], fields[COUNT], batch, seed)
                                       : list_of_batch(next_use, ring);
                fields[LIST] = to;
                slot_list[slot] = to;
                slot_since[slot] = since + i;
            }
        }
        count_lanes(lists, to, 1);
    }
}

// Whether there is room for what misses, and which lists leave for it. One block of whole warps.
//
// batch: that is planned; nearest: batches before it that are still to be planned are held; furthest: the last batch
// known; slots: S; spare: at most so many of a list are chosen beyond those that leave.
// tile_misses: (tiles,) int32. tile_starts: (tiles,) int32, overwritten: how many miss before each tile. lists: modified
// where there is room: those that leave are taken off. state: all of the batch; where there is room FILLED, too.
// cut: 0. miss_count, evict_count: (1,) int32, overwritten; no row leaves where there is no room.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) find_room(
    int batch, int nearest, int furthest, int slots, int spare, const int* __restrict__ tile_misses, int tiles,
    int* __restrict__ tile_starts, int* lists, int ring, int* state, uint64* cut, int* __restrict__ miss_count,
    int* __restrict__ evict_count) {
    __shared__ int shared[WARP];
    const int thread = threadIdx.x, threads = blockDim.x;
    const bool is_first = thread == 0;
    int missed = 0;
    for (int first = 0; first < tiles; first += threads) {
        const int tile = first + thread;
        int in_these;
        const int before = block_exclusive_scan(tile < tiles ? tile_misses[tile] : 0, shared, in_these);
        if (tile < tiles) tile_starts[tile] = missed + before;
        missed += in_these;
    }

    // Rows that are listed, in the order in which they would leave: each thread has some neighbouring lists.
    const int orders = RANKS + max(furthest - nearest + 1, 0);
    const int each = (orders + threads - 1) / threads;
    const int first_order = min(thread * each, orders), last_order = min(first_order + each, orders);
    int listed = 0, may_leave;
    for (int order = first_order; order < last_order; ++order) listed += lists[list_at(order, furthest, ring)];
    int before = block_exclusive_scan(listed, shared, may_leave);

    const int filled = state[FILLED];
    const int wanted = max(missed - (slots - filled), 0);
    const bool is_ok = wanted <= may_leave;
    const int evicted = is_ok ? wanted : 0;
    __syncthreads();
    if (is_first) {
        // Its rows have been used and are in no list.
        lists[list_of_batch(batch, ring)] = 0;
        const int fresh = max(-state[FREE], 0);
        state[HANDED_OUT] += fresh;
        state[FREE] += fresh;
        state[IS_OK] = is_ok;
        state[MISSED] = missed;
        state[EVICTED] = evicted;
        state[FIRST] = filled;
        state[TAKEN] = is_ok ? missed - evicted : 0;
        if (is_ok) state[FILLED] = filled + missed - evicted;
        state[CHOSEN] = 0;
        cut[0] = 0;
        *miss_count = missed;
        *evict_count = evicted;
        if (evicted == 0) {
            state[BOUNDARY] = NONE;
            state[UNUSED] = 0;
            state[IN_PART] = 0;
        }
    }
    if (evicted == 0) return;
    for (int order = first_order; order < last_order; ++order) {
        int* const list = &lists[list_at(order, furthest, ring)];
        const int length = *list, leave = min(max(evicted - before, 0), length);
        before += length;
        *list = length - leave;
        if (leave > 0 && before - length + leave == evicted) {
            state[BOUNDARY] = order;
            state[NEEDED] = leave;
            state[IN_PART] = length - leave > spare;
        }
        if (order == RANKS - 1) state[UNUSED] = min(before, evicted);
    }
}

// Slots are read so many a thread at once: memory is far away.
#define SLOT_ROUNDS 4
// Bins of the widest digit.
#define MOST_BINS 4096

// Of the list that is left in part: how many rows have which digit of `slot_since - cut`, among those with nothing above.
// The digit is `bits` wide, its lowest bit is `shift`. bins: (MOST_BINS,) int32, zeros before. Any grid.
extern "C" __global__ void count_since(
    const int* __restrict__ slot_list, const uint64* __restrict__ slot_since, int furthest, int ring, int shift, int bits,
    const int* __restrict__ state, const uint64* __restrict__ cut, int* bins) {
    __shared__ int counts[MOST_BINS];
    if (!state[IN_PART]) return;
    for (int bin = threadIdx.x; bin < 1 << bits; bin += blockDim.x) counts[bin] = 0;
    __syncthreads();
    const int list = list_at(state[BOUNDARY], furthest, ring), filled = state[FILLED];
    const uint64 cut_at = cut[0];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < filled; first += SLOT_ROUNDS * stride) {
        bool is_listed[SLOT_ROUNDS];
        int bins_of[SLOT_ROUNDS];
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            const int64 slot = first + round * stride + threadIdx.x;
            is_listed[round] = slot < filled && slot_list[slot] == list;
        }
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            bins_of[round] = NONE;
            if (!is_listed[round]) continue;
            // What lies below the cut wraps around and has bits above.
            const uint64 digits = (slot_since[first + round * stride + threadIdx.x] - cut_at) >> shift;
            if (digits >> bits == 0) bins_of[round] = (int)digits;
        }
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round)
            if (__any_sync(ALL_LANES, bins_of[round] != NONE)) count_lanes(counts, bins_of[round], 1);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < 1 << bits; bin += blockDim.x)
        if (counts[bin] != 0) atomicAdd(&bins[bin], counts[bin]);
}

// The digit up to which they leave: the cut moves there, and NEEDED is how many of that digit leave. bins: zeros again.
// state: NEEDED modified. One block of whole warps.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) move_cut(
    int shift, int bits, int* bins, int* state, uint64* cut) {
    __shared__ int shared[WARP];
    if (!state[IN_PART]) return;
    const int each = ((1 << bits) + (int)blockDim.x - 1) / (int)blockDim.x;
    const int first = min((int)threadIdx.x * each, 1 << bits), last = min(first + each, 1 << bits);
    const int needed = state[NEEDED];
    int in_these = 0, total;
    for (int bin = first; bin < last; ++bin) in_these += bins[bin];
    int before = block_exclusive_scan(in_these, shared, total);
    for (int bin = first; bin < last; ++bin) {
        const int count = bins[bin];
        bins[bin] = 0;
        if (before < needed && needed <= before + count) {
            state[NEEDED] = needed - before;
            cut[0] += (uint64)bin << shift;
        }
        before += count;
    }
}

// Write down the rows that leave and, of the list that is left in part, those up to `spare` beyond the cut.
//
// keys: (CHOSEN,) int64, the order of the list above the low `since_bits` bits, which are slot_since; slots: (CHOSEN,)
// int32; in no order. state: CHOSEN is how many. Any grid, blocks of whole warps.
extern "C" __global__ void choose(
    const int* __restrict__ slot_list, const uint64* __restrict__ slot_since, int furthest, int ring, int since_bits,
    int spare, const uint64* __restrict__ cut, int* state, int64* __restrict__ keys, int* __restrict__ slots) {
    __shared__ int shared[WARP];
    __shared__ int block_start;
    const int boundary = state[BOUNDARY], in_part = state[IN_PART], filled = state[FILLED];
    if (boundary == NONE) return;
    const uint64 end = cut[0] + (uint64)spare;
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < filled; first += SLOT_ROUNDS * stride) {
        // The order of each slot's list, more than `boundary` where the row stays.
        int orders[SLOT_ROUNDS];
        uint64 since[SLOT_ROUNDS];
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            const int64 slot = first + round * stride + threadIdx.x;
            const int list = slot < filled ? slot_list[slot] : NONE;
            orders[round] = list == NONE ? boundary + 1 : order_of(list, furthest, ring);
        }
        int leaving = 0;
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            since[round] = orders[round] <= boundary ? slot_since[first + round * stride + threadIdx.x] : 0;
            if (orders[round] == boundary && in_part && since[round] >= end) orders[round] = boundary + 1;
            leaving += orders[round] <= boundary;
        }
        // One atomic for the block: there may be a victim in every warp.
        int total;
        const int before = block_exclusive_scan(leaving, shared, total);
        if (total == 0) continue;
        // The scan's barriers keep this from being written before all have read what was there.
        if (threadIdx.x == 0) block_start = atomicAdd(&state[CHOSEN], total);
        __syncthreads();
        int place = block_start + before;
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            if (orders[round] > boundary) continue;
            keys[place] = (int64)((uint64)orders[round] << since_bits | since[round]);
            slots[place] = (int)(first + round * stride + threadIdx.x);
            ++place;
        }
    }
}

// Take the slots of the first EVICTED chosen rows away, and put the nodes of the first UNUSED of them onto the stack of
// free ones; `assign` counts them.
//
// victims: (EVICTED,) int32, slots in the order in which they leave. evict_rows, evict_slots: (EVICTED,), overwritten.
// Modified: all that is not const. One thread a row, or more of them.
extern "C" __global__ void evict(
    const int* __restrict__ victims, int64* cells, int shift, int* nodes, int64* node_rows,
    int* __restrict__ free_nodes, const int* __restrict__ slot_node, int* __restrict__ slot_list, int* state,
    int64* __restrict__ evict_rows, int* __restrict__ evict_slots) {
    const int evicted = state[EVICTED], unused = state[UNUSED], free = state[FREE];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < evicted; first += stride) {
        const int64 e = first + threadIdx.x;
        bool one_less = false;
        if (e < evicted) {
            const int slot = victims[e], node = slot_node[slot];
            const int64 row = node_rows[node];
            evict_rows[e] = row;
            evict_slots[e] = slot;
            slot_list[slot] = NONE;
            nodes[(int64)node * NODE_FIELDS + SLOT] = NONE;
            nodes[(int64)node * NODE_FIELDS + LIST] = NONE;
            if (e < unused) {
                one_less = hit_map_erase(cells, shift, row);
                node_rows[node] = NONE;
                free_nodes[free + e] = node;
            }
        }
        warp_reserve(&state[PLACES], one_less, -1);
    }
}

// Give a slot to each row that misses: the empty ones first, then those that were left. Nothing where there is no room.
//
// tile_starts: of find_room. unique_slots: (unique,) int32, NONE where a row misses; the slot of each afterwards.
// miss_rows, miss_slots: (MISSED,), overwritten. nodes, slot_node: modified; state: FREE. Grid: tiles of scan.cuh.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) assign(
    int64 start, int unique, const int* __restrict__ tile_starts, const int* __restrict__ evict_slots,
    int* __restrict__ nodes, const int64* __restrict__ node_rows, const int* __restrict__ window, int window_size,
    int* __restrict__ slot_node, int* state, int* unique_slots, int64* __restrict__ miss_rows,
    int* __restrict__ miss_slots) {
    __shared__ int shared[WARP];
    if (!state[IS_OK]) return;
    if (blockIdx.x == 0 && threadIdx.x == 0) state[FREE] += state[UNUSED];
    const int first = state[FIRST], taken = state[TAKEN];
    int places[TILE_ROUNDS];
    kept_places(
        unique, tile_starts[blockIdx.x], [=](int item) { return unique_slots[item] == NONE; }, shared, places);
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const int place = places[round];
        if (place < 0) continue;
        const unsigned item = tile_item(round);
        const int node = window[2 * ((start + item) & (window_size - 1))];
        const int slot = place < taken ? first + place : evict_slots[place - taken];
        nodes[(int64)node * NODE_FIELDS + SLOT] = slot;
        slot_node[slot] = node;
        unique_slots[item] = slot;
        miss_rows[place] = node_rows[node];
        miss_slots[place] = slot;
    }
}

// Move what is listed from `first` to `end` into a larger window, and tell each node its latest place there.
// window: (window_size, 2) int32; larger: (larger_size, 2) int32, modified; nodes: modified. One thread a place.
extern "C" __global__ void move_window(
    const int* __restrict__ window, int window_size, int64 first, int64 end, int* __restrict__ larger, int larger_size,
    int* nodes) {
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 at = first + (int64)blockIdx.x * blockDim.x + threadIdx.x; at < end; at += stride) {
        const int64 from = at & (window_size - 1), to = at & (larger_size - 1);
        const int node = window[2 * from];
        larger[2 * to] = node;
        larger[2 * to + 1] = window[2 * from + 1];
        // No other thread sees its own place here, whether or not this one has moved it: the new place is the old one or
        // lies beyond all old ones.
        int* const seen_at = &nodes[(int64)node * NODE_FIELDS + SEEN_AT];
        if (*seen_at == (int)from) *seen_at = (int)to;
    }
}
