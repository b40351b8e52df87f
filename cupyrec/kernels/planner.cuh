// What the planner's kernels share, in known_batches.cu and victims.cu. They give the plans that those of
// cupyrec/pipeline/planner_kernels.py give on the host.
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

#pragma once

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
