// adreno-740: geglu 16x32x32 float16 int8, version 3 of the family
__kernel void main_kernel(__global half* restrict geglu_gate_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_SNORM_INT8 */, __global float* restrict p2_ptr, __global half* restrict p3_ptr) {
  int _ptr[3];
  int _ptr_1[1];
  half4 _ptr_2[10];
  half _ptr_3[4];
  __local half _ptr_4[1280];
  half _ptr_5[20];
  half4 _ptr_6[1];
  int _ptr_7[1];
  float _ptr_8[20];
  int _ptr_9[1];
  int cse_v1 = ((convert_int(get_local_id(0))) >> 5);
  int cse_v10 = (((convert_int(get_local_id(0))) >> 5) * 32);
  int v = (((convert_int(get_local_id(0))) >> 5) * 32);
  _ptr[0] = (((convert_int(get_local_id(0))) >> 5) * 32);
  int cse_v2 = ((convert_int(get_local_id(0))) & 31);
  _ptr[1] = (((((convert_int(get_local_id(0))) >> 5) * 32) + (((convert_int(get_local_id(0))) & 7) * 4)) + (((convert_int(get_local_id(0))) & 31) >> 3));
  _ptr[2] = (((convert_int(get_group_id(1))) * 64) + (convert_int(get_local_id(0))));
  int cse_v11 = (((convert_int(get_local_id(0))) >> 5) * 4);
  int v_1 = (((convert_int(get_local_id(0))) >> 5) * 4);
  _ptr_1[0] = ((min((int)(((convert_int(get_local_id(0))) & 31) * 5), (int)11) * 8) + (((convert_int(get_local_id(0))) >> 5) * 4));
  _ptr_2[0] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[1] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[2] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[3] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[4] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[5] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[6] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[7] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[8] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[9] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  int v_2 = ((convert_int(get_local_id(0))) >> 5);
  vstore4(read_imageh(p1_ptr, _ptr[2]), 0, _ptr_3 + 0);
  _ptr[2] = (_ptr[2] + 32);
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(vload4(0, _ptr_3 + 0), 0, _ptr_4 + (_ptr[1] * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_3 = 0; v_3 < 4; ++v_3) {
    vstore4(read_imageh(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 8)), 0, _ptr_5 + 4);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 16)), 0, _ptr_5 + 8);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 24)), 0, _ptr_5 + 12);
    vstore4(read_imageh(p0_ptr, (_ptr_1[0] + 32)), 0, _ptr_5 + 16);
    int cse_v3 = (v_3 * 4);
    _ptr_6[0] = vload4(0, _ptr_4 + ((_ptr[0] * 4) + (v_3 * 4)));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 16));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 32));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 48));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 64));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 80));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 112));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(convert_int(get_local_id(0)))] = (convert_half((convert_int(get_local_id(0)))));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_7[0] = (convert_int(_ptr_4[(convert_int(get_local_id(0)))]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_7[0] & 63) * 8));
  vstore4(_ptr_2[1], 0, _ptr_4 + (((_ptr_7[0] & 63) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = 0.000000e+00f;
  _ptr_8[1] = 0.000000e+00f;
  _ptr_8[2] = 0.000000e+00f;
  _ptr_8[3] = 0.000000e+00f;
  for (int v_4 = 0; v_4 < 2; ++v_4) {
    int cse_v4 = (v_4 * 256);
    _ptr_8[0] = (_ptr_8[0] + (convert_float(_ptr_4[(((v_4 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4))])));
    _ptr_8[1] = (_ptr_8[1] + (convert_float(_ptr_4[((((v_4 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)])));
    _ptr_8[2] = (_ptr_8[2] + (convert_float(_ptr_4[((((v_4 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)])));
    _ptr_8[3] = (_ptr_8[3] + (convert_float(_ptr_4[((((v_4 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_7[0] & 63) * 8));
  vstore4(_ptr_2[3], 0, _ptr_4 + (((_ptr_7[0] & 63) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[4] = 0.000000e+00f;
  _ptr_8[5] = 0.000000e+00f;
  _ptr_8[6] = 0.000000e+00f;
  _ptr_8[7] = 0.000000e+00f;
  for (int v_5 = 0; v_5 < 2; ++v_5) {
    int cse_v5 = (v_5 * 256);
    _ptr_8[4] = (_ptr_8[4] + (convert_float(_ptr_4[(((v_5 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4))])));
    _ptr_8[5] = (_ptr_8[5] + (convert_float(_ptr_4[((((v_5 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)])));
    _ptr_8[6] = (_ptr_8[6] + (convert_float(_ptr_4[((((v_5 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)])));
    _ptr_8[7] = (_ptr_8[7] + (convert_float(_ptr_4[((((v_5 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[4], 0, _ptr_4 + ((_ptr_7[0] & 63) * 8));
  vstore4(_ptr_2[5], 0, _ptr_4 + (((_ptr_7[0] & 63) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[8] = 0.000000e+00f;
  _ptr_8[9] = 0.000000e+00f;
  _ptr_8[10] = 0.000000e+00f;
  _ptr_8[11] = 0.000000e+00f;
  for (int v_6 = 0; v_6 < 2; ++v_6) {
    int cse_v6 = (v_6 * 256);
    _ptr_8[8] = (_ptr_8[8] + (convert_float(_ptr_4[(((v_6 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4))])));
    _ptr_8[9] = (_ptr_8[9] + (convert_float(_ptr_4[((((v_6 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)])));
    _ptr_8[10] = (_ptr_8[10] + (convert_float(_ptr_4[((((v_6 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)])));
    _ptr_8[11] = (_ptr_8[11] + (convert_float(_ptr_4[((((v_6 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[6], 0, _ptr_4 + ((_ptr_7[0] & 63) * 8));
  vstore4(_ptr_2[7], 0, _ptr_4 + (((_ptr_7[0] & 63) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[12] = 0.000000e+00f;
  _ptr_8[13] = 0.000000e+00f;
  _ptr_8[14] = 0.000000e+00f;
  _ptr_8[15] = 0.000000e+00f;
  for (int v_7 = 0; v_7 < 2; ++v_7) {
    int cse_v7 = (v_7 * 256);
    _ptr_8[12] = (_ptr_8[12] + (convert_float(_ptr_4[(((v_7 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4))])));
    _ptr_8[13] = (_ptr_8[13] + (convert_float(_ptr_4[((((v_7 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)])));
    _ptr_8[14] = (_ptr_8[14] + (convert_float(_ptr_4[((((v_7 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)])));
    _ptr_8[15] = (_ptr_8[15] + (convert_float(_ptr_4[((((v_7 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[8], 0, _ptr_4 + ((_ptr_7[0] & 63) * 8));
  vstore4(_ptr_2[9], 0, _ptr_4 + (((_ptr_7[0] & 63) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[16] = 0.000000e+00f;
  _ptr_8[17] = 0.000000e+00f;
  _ptr_8[18] = 0.000000e+00f;
  _ptr_8[19] = 0.000000e+00f;
  for (int v_8 = 0; v_8 < 2; ++v_8) {
    int cse_v8 = (v_8 * 256);
    _ptr_8[16] = (_ptr_8[16] + (convert_float(_ptr_4[(((v_8 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4))])));
    _ptr_8[17] = (_ptr_8[17] + (convert_float(_ptr_4[((((v_8 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)])));
    _ptr_8[18] = (_ptr_8[18] + (convert_float(_ptr_4[((((v_8 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)])));
    _ptr_8[19] = (_ptr_8[19] + (convert_float(_ptr_4[((((v_8 * 256) + (((_ptr_7[0] & 63) & 31) * 8)) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4))] = (convert_half(_ptr_8[0]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 1)] = (convert_half(_ptr_8[1]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 2)] = (convert_half(_ptr_8[2]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 3)] = (convert_half(_ptr_8[3]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 8)] = (convert_half(_ptr_8[4]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 9)] = (convert_half(_ptr_8[5]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 10)] = (convert_half(_ptr_8[6]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 11)] = (convert_half(_ptr_8[7]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 16)] = (convert_half(_ptr_8[8]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 17)] = (convert_half(_ptr_8[9]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 18)] = (convert_half(_ptr_8[10]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 19)] = (convert_half(_ptr_8[11]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 24)] = (convert_half(_ptr_8[12]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 25)] = (convert_half(_ptr_8[13]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 26)] = (convert_half(_ptr_8[14]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 27)] = (convert_half(_ptr_8[15]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 32)] = (convert_half(_ptr_8[16]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 33)] = (convert_half(_ptr_8[17]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 34)] = (convert_half(_ptr_8[18]));
  _ptr_4[(((((_ptr_7[0] & 63) & 31) * 40) + (((_ptr_7[0] & 63) >> 5) * 4)) + 35)] = (convert_half(_ptr_8[19]));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[0] = ((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_9[0] < 3))) { break; }
    if ((((_ptr_9[0] & 3) * 2) + ((_ptr_7[0] & 63) >> 5)) < 5) {
      int cse_v9 = ((convert_int(get_group_id(1))) * 8);
      vstore4((convert_half4((((((convert_float4(vload4(0, _ptr_4 + (((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8))))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + ((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)))) + (convert_float4(vload4(0, p3_ptr + ((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)))))) * (max(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))))), ((float4)(0.000000e+00f))) - (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * (((((((((((((float4)(1.061405e+00f)) * (((float4)(1.000000e+00f)) / (((float4)(1.000000e+00f)) + (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(2.316419e-01f)))))) + ((float4)(-1.453152e+00f))) * (((float4)(1.000000e+00f)) / (((float4)(1.000000e+00f)) + (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(2.316419e-01f)))))) + ((float4)(1.421414e+00f))) * (((float4)(1.000000e+00f)) / (((float4)(1.000000e+00f)) + (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(2.316419e-01f)))))) + ((float4)(-2.844967e-01f))) * (((float4)(1.000000e+00f)) / (((float4)(1.000000e+00f)) + (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(2.316419e-01f)))))) + ((float4)(2.548296e-01f))) * (((float4)(1.000000e+00f)) / (((float4)(1.000000e+00f)) + (fabs(((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(2.316419e-01f)))))) * exp(((((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))))) * ((((convert_float4(vload4(0, _ptr_4 + ((((((_ptr_7[0] & 63) & 31) * 40) + ((_ptr_9[0] & 3) * 16)) + (((_ptr_7[0] & 63) >> 5) * 8)) + 4)))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4))) + (convert_float4(vload4(0, p3_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 8) + ((convert_int(get_group_id(1))) * 8)) + 4)))))) * ((float4)(-5.000000e-01f))))) * ((float4)(5.000000e-01f)))))))), 0, geglu_gate_ptr + ((((((_ptr_9[0] & 3) * 32) + (((_ptr_7[0] & 63) >> 5) * 16)) + (min((int)(((_ptr_7[0] & 63) & 31) * 5), (int)11) * 16)) + ((convert_int(get_group_id(1))) * 4)) + (((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 4)));
    }
    _ptr_9[0] = (_ptr_9[0] + 1);
  }
}

